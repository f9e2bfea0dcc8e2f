import { SECTOR, MemoryBlob } from '../../src/blob/index.js';
import {
  encodeHeader,
  HeaderFlag,
  openSealedLayer,
  setDiskEntry,
  type SealedLayer,
} from '../../src/lsmt/index.js';

/** One write (`fill` 1-255) or discard (`fill` 0) of whole sectors. */
export interface SectorOp {
  readonly start: number;
  readonly length: number;
  readonly fill: number;
}

/**
 * A sealed layer file made by hand from operations that do not overlap, sorted; every data sector holds
 * `fill` in all bytes. Independent of the code that writes layers.
 */
export function layerBytes(ops: readonly SectorOp[], virtualSize: number, tag = 0): Uint8Array {
  const dataSectors = ops.reduce((sum, op) => sum + (op.fill === 0 ? 0 : op.length), 0);
  const indexOffset = 4096 + dataSectors * SECTOR;
  const bytes = new Uint8Array(indexOffset + ops.length * 16 + 4096);
  bytes.set(encodeHeader({ flags: HeaderFlag.HEADER | HeaderFlag.DATA | HeaderFlag.SEALED, virtualSize }));
  const words = new Uint32Array(ops.length * 4);
  let at = 8;
  ops.forEach(({ start, length, fill }, i) => {
    setDiskEntry(words, i, { offset: start, length, moffset: at, zeroed: fill === 0, tag });
    if (fill === 0) return;
    bytes.fill(fill, at * SECTOR, (at + length) * SECTOR);
    at += length;
  });
  bytes.set(new Uint8Array(words.buffer), indexOffset);
  const trailer = encodeHeader({
    flags: HeaderFlag.DATA | HeaderFlag.SEALED,
    virtualSize,
    indexOffset,
    indexCount: ops.length,
  });
  bytes.set(trailer, indexOffset + ops.length * 16);
  return bytes;
}

/** {@link layerBytes} as an open layer. */
export function memoryLayer(
  ops: readonly SectorOp[],
  virtualSize: number,
  name = 'layer',
): Promise<SealedLayer> {
  return openSealedLayer(new MemoryBlob(layerBytes(ops, virtualSize), name));
}

/** Plays operations over an array of sectors and returns what stays, sorted and disjoint: a sector is its fill. */
export function flattenOps(ops: readonly SectorOp[], sectors: number): SectorOp[] {
  const model = new Int16Array(sectors).fill(-1);
  for (const { start, length, fill } of ops) model.fill(fill, start, start + length);
  const out: SectorOp[] = [];
  for (let i = 0; i < sectors;) {
    const fill = model[i] ?? -1;
    let end = i + 1;
    while (end < sectors && model[end] === fill) end++;
    if (fill >= 0) out.push({ start: i, length: end - i, fill });
    i = end;
  }
  return out;
}
