import { MemoryBlob } from '../../src/blob/index.js';
import { ZFileWriter } from '../../src/zfile/index.js';
import { layerBytes, type SectorOp } from './layers.js';
import { digestOf, testBytes } from './source-blob.js';

/** Where a layer's data begins, and the longest run that one entry of its index holds in whole MiB. */
const DATA = 4096;
const RUN = 1 << 20;

/** A layer of bytes that differ everywhere, and the disk that it makes. */
export interface RandomLayer {
  /** The disk. */
  readonly plain: Uint8Array;
  /** The blob: a sealed layer, in a ZFile unless told otherwise. */
  readonly stored: Buffer;
  readonly digest: string;
}

/** Makes one. @param mib size of the disk. @param zfile false: the layer as it is, without a checksum per block. */
export async function randomLayer(mib: number, seed: number, zfile = true): Promise<RandomLayer> {
  const plain = testBytes(mib * RUN, seed);
  const ops: SectorOp[] = Array.from({ length: mib }, (_, i) => ({
    start: (i * RUN) / 512,
    length: RUN / 512,
    fill: 1,
  }));
  const layer = layerBytes(ops, plain.length);
  layer.set(plain, DATA);
  const stored = zfile ? await packed(layer) : Buffer.from(layer);
  return { plain, stored, digest: digestOf(stored) };
}

async function packed(layer: Uint8Array): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  const writer = new ZFileWriter({ write: async (piece) => void pieces.push(piece.slice()) });
  const blob = new MemoryBlob(layer);
  const piece = new Uint8Array(RUN);
  for (let at = 0; at < blob.size; at += RUN) {
    const part = piece.subarray(0, Math.min(RUN, blob.size - at));
    await blob.read(at, part);
    await writer.write(part);
  }
  await writer.finish();
  return Buffer.concat(pieces);
}
