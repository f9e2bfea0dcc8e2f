/**
 * Trace files: which bytes of an image's layers a workload read, in order (formats.md 7.1, service.md D.5). Little-endian.
 *
 *   header   0 magic u32 = 0xC2EF1820 | 8 bytes of records u64 | 16 crc u32 | (4 and 20: padding)
 *   record   0 op u8 'R' or 'W' | 4 layer u32, bottom 0 | 8 count u64 | 16 offset i64 | (1 to 3: padding)
 *
 * Offsets count in the layer's LSMT file, behind tar and ZFile. The crc is raw CRC-32C, seed 0, of all record bytes with
 * their padding. A file is untrusted: it may come with an image.
 */
import { FormatError } from '../blob/index.js';
import { crc32c } from '../native/index.js';

/** First four bytes of a trace; anything else is a list of files. */
export const TRACE_MAGIC = 0xc2ef1820;
/** Bytes of a header, and of a record. */
export const TRACE_UNIT = 24;
/** Longest read that is written into one record; overlaybd replays through a buffer of that size. */
export const MAX_RECORD_BYTES = 1 << 20;
/**
 * Longest read that is accepted: overlaybd records the loading of an index as one read, and an index has at most 1,000,000
 * entries of 16 bytes.
 */
export const MAX_ACCEPTED_BYTES = 16 << 20;
/** Most records of one trace, 24 MB: more than a million reads do not make a start faster. */
export const MAX_RECORDS = 1_000_000;
/** Largest trace file. */
export const MAX_TRACE_BYTES = TRACE_UNIT * (MAX_RECORDS + 1);
/** Lowers of an image are numbered from 0 to this. */
const MAX_LAYER = 255;
const OP_READ = 0x52;
const OP_WRITE = 0x57;

/** One read of one layer. */
export interface TraceRecord {
  /** Position in `lowers`, bottom 0. */
  readonly layer: number;
  /** Bytes, in the layer's LSMT file. */
  readonly offset: number;
  /** Bytes. */
  readonly count: number;
}

/** Whether a file begins as a trace does. */
export function isTrace(bytes: Uint8Array): boolean {
  return bytes.byteLength >= 4 && viewOf(bytes).getUint32(0, true) === TRACE_MAGIC;
}

/**
 * Reads a trace. Records of writes, which nobody makes, are left out.
 * @param source names the file in errors.
 * @throws FormatError with the address of what is wrong.
 */
export function parseTrace(bytes: Uint8Array, source: string): TraceRecord[] {
  const fail = (
    code: FormatError['code'],
    offset: number,
    what: string,
    expected: string | number,
    actual: string | number,
  ): never => {
    throw new FormatError(
      code,
      `Cannot use trace "${source}": ${what} is ${actual}, expected ${expected} (at byte ${offset})`,
      {
        source,
        offset,
        expected,
        actual,
        hint: 'Record the trace again: obd record-trace',
      },
    );
  };
  if (bytes.byteLength < TRACE_UNIT)
    fail('OBD_FORMAT_TRUNCATED', 0, 'its size', `at least ${TRACE_UNIT} bytes`, bytes.byteLength);
  if (bytes.byteLength > MAX_TRACE_BYTES)
    fail('OBD_FORMAT_LIMIT', 0, 'its size', `at most ${MAX_TRACE_BYTES} bytes`, bytes.byteLength);
  const view = viewOf(bytes);
  if (!isTrace(bytes))
    fail('OBD_FORMAT_BAD_MAGIC', 0, 'the magic', hex(TRACE_MAGIC), hex(view.getUint32(0, true)));
  const body = bytes.byteLength - TRACE_UNIT;
  const stated = view.getBigUint64(8, true);
  if (stated !== BigInt(body))
    fail('OBD_FORMAT_BAD_HEADER', 8, 'the size of its records', body, stated.toString());
  if (body % TRACE_UNIT !== 0)
    fail('OBD_FORMAT_BAD_HEADER', 8, 'the size of its records', `a multiple of ${TRACE_UNIT}`, body);
  const crc = crc32c(bytes.subarray(TRACE_UNIT), 0);
  if (crc !== view.getUint32(16, true))
    fail('OBD_FORMAT_CHECKSUM', 16, 'the crc of its records', hex(crc), hex(view.getUint32(16, true)));

  const records: TraceRecord[] = [];
  for (let at = TRACE_UNIT; at < bytes.byteLength; at += TRACE_UNIT) {
    const op = view.getUint8(at);
    if (op !== OP_READ && op !== OP_WRITE)
      fail('OBD_FORMAT_BAD_INDEX', at, 'the operation of a record', '"R" or "W"', hex(op));
    const layer = view.getUint32(at + 4, true);
    if (layer > MAX_LAYER)
      fail('OBD_FORMAT_BAD_INDEX', at + 4, 'the layer of a record', `0 to ${MAX_LAYER}`, layer);
    const count = view.getBigUint64(at + 8, true);
    if (count > BigInt(MAX_ACCEPTED_BYTES))
      fail(
        'OBD_FORMAT_LIMIT',
        at + 8,
        'the length of a record',
        `at most ${MAX_ACCEPTED_BYTES}`,
        count.toString(),
      );
    const offset = view.getBigInt64(at + 16, true);
    if (offset < 0n || offset > BigInt(Number.MAX_SAFE_INTEGER - MAX_ACCEPTED_BYTES))
      fail(
        'OBD_FORMAT_BAD_INDEX',
        at + 16,
        'the offset of a record',
        'a place in a layer',
        offset.toString(),
      );
    if (op === OP_READ && count > 0n) records.push({ layer, offset: Number(offset), count: Number(count) });
  }
  return records;
}

/** Writes a trace; padding is zero. Reads longer than {@link MAX_RECORD_BYTES} become several records. */
export function encodeTrace(records: Iterable<TraceRecord>): Buffer {
  const pieces: TraceRecord[] = [];
  for (const { layer, offset, count } of records)
    for (let done = 0; done < count; done += MAX_RECORD_BYTES)
      pieces.push({ layer, offset: offset + done, count: Math.min(count - done, MAX_RECORD_BYTES) });
  const bytes = Buffer.alloc(TRACE_UNIT * (pieces.length + 1));
  bytes.writeUInt32LE(TRACE_MAGIC, 0);
  bytes.writeBigUInt64LE(BigInt(bytes.byteLength - TRACE_UNIT), 8);
  pieces.forEach(({ layer, offset, count }, i) => {
    const at = TRACE_UNIT * (i + 1);
    bytes.writeUInt8(OP_READ, at);
    bytes.writeUInt32LE(layer, at + 4);
    bytes.writeBigUInt64LE(BigInt(count), at + 8);
    bytes.writeBigInt64LE(BigInt(offset), at + 16);
  });
  bytes.writeUInt32LE(crc32c(bytes.subarray(TRACE_UNIT), 0), 16);
  return bytes;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
