import { constants, deflateRawSync, deflateSync } from 'node:zlib';
import { crc32c } from '../../src/native/index.js';

/** Bytes of gzip's own header as written here: no name, no time. */
const GZIP_HEADER = Buffer.from('1f8b0800000000000003', 'hex');
const WINDOW = 32768;

/** A gzip file of `plain` with a restart point every `span` bytes, and its index. Its trailer is not valid. */
export function gzipWithIndex(
  plain: Uint8Array,
  span: number,
  compressed = true,
): { readonly gzip: Buffer; readonly index: Buffer } {
  const parts: Buffer[] = [GZIP_HEADER];
  const dictionaries: Buffer[] = [];
  const points: { plain: number; gzip: number; at: number; length: number }[] = [];
  let at = GZIP_HEADER.length;
  let dictionaryAt = 333;
  for (let offset = 0; offset === 0 || offset < plain.length; offset += span) {
    const before = Buffer.alloc(WINDOW);
    before.set(plain.subarray(Math.max(0, offset - WINDOW), offset), Math.max(0, WINDOW - offset));
    const stored = compressed ? deflateSync(before) : before;
    points.push({ plain: offset, gzip: at, at: dictionaryAt, length: stored.length });
    dictionaries.push(stored);
    dictionaryAt += stored.length;
    const last = offset + span >= plain.length;
    const part = deflateRawSync(plain.subarray(offset, offset + span), {
      finishFlush: last ? constants.Z_FINISH : constants.Z_SYNC_FLUSH,
      ...(offset === 0 ? {} : { dictionary: before.subarray(Math.max(0, WINDOW - offset)) }),
    });
    parts.push(part);
    at += part.length;
  }
  parts.push(Buffer.alloc(8));
  const gzip = Buffer.concat(parts);
  const table = Buffer.alloc(29 * points.length);
  for (const [i, point] of points.entries()) {
    table.writeBigInt64LE(BigInt(point.plain), i * 29);
    table.writeBigInt64LE(BigInt(point.gzip), i * 29 + 8);
    table.writeBigInt64LE(BigInt(point.at), i * 29 + 16);
    table.writeUInt32LE(point.length, i * 29 + 25);
  }
  const stored = compressed ? deflateSync(table) : table;
  const header = Buffer.alloc(333);
  header.write('ddgzidx\0', 'latin1');
  header.writeUInt8(1, 8);
  header.writeUInt8(compressed ? 1 : 0, 10);
  header.writeInt32LE(span, 13);
  header.writeInt32LE(WINDOW, 17);
  header.writeInt32LE(29, 21);
  const size = dictionaryAt + stored.length;
  for (const [offset, value] of [
    [25, points.length],
    [33, gzip.length],
    [41, size],
    [49, plain.length],
    [313, dictionaryAt],
    [321, stored.length],
  ] as const)
    header.writeBigInt64LE(BigInt(value), offset);
  header.writeUInt32LE(crc32c(header.subarray(0, 329)), 329);
  return { gzip, index: Buffer.concat([header, ...dictionaries, stored]) };
}
