/**
 * The index of restart points (docs/formats/gzip.md): for about every MiB of the plain file, where in the gzip file a
 * decoder can begin, and the 32 KiB of plain bytes before that point, which it needs. Points are kept in memory;
 * dictionaries stay in the file and are read when a decoder starts.
 */
import { inflate } from 'node:zlib';
import { promisify } from 'node:util';
import { FormatError, type ReadableBlob } from '../blob/index.js';
import { crc32c } from '../native/index.js';

const inflateZlib = promisify<Uint8Array, { maxOutputLength: number }, Buffer>(inflate);

const HEADER_SIZE = 333;
const CRC_AT = 329;
const ENTRY_SIZE = 29;
const MAGIC = Buffer.from('ddgzidx\0', 'latin1');
/** Plain bytes a deflate decoder can look back. */
export const GZIP_WINDOW = 32768;
/** A dictionary that does not compress grows by less than this. */
const MAX_STORED_DICTIONARY = GZIP_WINDOW + 1024;
/** Deflate cannot pack tighter; so a table cannot claim more entries than its stored bytes can hold. */
const MAX_DEFLATE_RATIO = 1032;
/** 16 TiB in steps of 1 MiB; 512 MiB of table. */
const MAX_POINTS = 1 << 24;

/** Where a decoder can begin. */
export interface RestartPoint {
  /** Offset in the plain file. */
  readonly plainOffset: number;
  /** Offset in the gzip file of the first whole byte. */
  readonly gzipOffset: number;
  /** How many top bits of the byte before `gzipOffset` come first, 0 to 7. */
  readonly bits: number;
}

/** A parsed index. */
export class GzipIndex {
  readonly name: string;
  /** Size of the gzip file that this index belongs to. */
  readonly gzipSize: number;
  /** Size of the plain file. */
  readonly plainSize: number;
  readonly points: number;
  readonly #blob: ReadableBlob;
  readonly #compressed: boolean;
  readonly #table: Buffer;

  private constructor(
    blob: ReadableBlob,
    numbers: { readonly gzipSize: number; readonly plainSize: number; readonly compressed: boolean },
    table: Buffer,
  ) {
    this.name = blob.name;
    this.gzipSize = numbers.gzipSize;
    this.plainSize = numbers.plainSize;
    this.points = table.byteLength / ENTRY_SIZE;
    this.#compressed = numbers.compressed;
    this.#blob = blob;
    this.#table = table;
  }

  /**
   * Reads and checks an index. It owns `blob` from then on; on failure the caller does.
   * @param gzipSize size of the gzip file that it shall belong to.
   * @throws FormatError OBD_FORMAT_TRUNCATED, CHECKSUM, BAD_MAGIC, BAD_HEADER, BAD_INDEX, LIMIT, UNSUPPORTED.
   */
  static async open(blob: ReadableBlob, gzipSize: number): Promise<GzipIndex> {
    const fail = (
      code: FormatError['code'],
      what: string,
      expected: string | number,
      actual: string | number,
    ) =>
      new FormatError(
        code,
        `Cannot open gzip index "${blob.name}": ${what} is ${actual}, expected ${expected}`,
        {
          source: blob.name,
          expected,
          actual,
        },
      );
    if (blob.size < HEADER_SIZE)
      throw fail('OBD_FORMAT_TRUNCATED', 'file size', `at least ${HEADER_SIZE}`, blob.size);
    const header = Buffer.alloc(HEADER_SIZE);
    await blob.read(0, header);
    if (!MAGIC.equals(header.subarray(0, MAGIC.length)))
      throw fail(
        'OBD_FORMAT_BAD_MAGIC',
        'magic',
        MAGIC.toString('hex'),
        header.toString('hex', 0, MAGIC.length),
      );
    const crc = crc32c(header.subarray(0, CRC_AT));
    if (header.readUInt32LE(CRC_AT) !== crc)
      throw fail('OBD_FORMAT_CHECKSUM', 'header crc', crc, header.readUInt32LE(CRC_AT));
    const number = (at: number, what: string): number => {
      const value = header.readBigInt64LE(at);
      if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER))
        throw fail('OBD_FORMAT_BAD_HEADER', what, 'a size', value.toString());
      return Number(value);
    };
    const require = (
      what: string,
      actual: number,
      expected: number,
      code: FormatError['code'] = 'OBD_FORMAT_BAD_HEADER',
    ): void => {
      if (actual !== expected) throw fail(code, what, expected, actual);
    };
    require('major version', header.readUInt8(8), 1, 'OBD_FORMAT_UNSUPPORTED');
    const algorithm = header.readUInt8(10);
    if (algorithm > 1)
      throw fail('OBD_FORMAT_UNSUPPORTED', 'compression of dictionaries', '0 or 1', algorithm);
    require('window', header.readInt32LE(17), GZIP_WINDOW);
    require('bytes per entry', header.readInt32LE(21), ENTRY_SIZE);
    require('index file size', number(41, 'index file size'), blob.size, 'OBD_FORMAT_TRUNCATED');
    require('gzip file size', number(33, 'gzip file size'), gzipSize);
    const points = number(25, 'number of entries');
    const tableStart = number(313, 'offset of the table');
    const tableLength = number(321, 'length of the table');
    if (tableStart < HEADER_SIZE || tableStart + tableLength !== blob.size)
      throw fail(
        'OBD_FORMAT_BAD_INDEX',
        'table',
        `to begin behind the header and to end at ${blob.size}`,
        `[${tableStart}, ${tableStart + tableLength})`,
      );
    const most = algorithm === 0 ? tableLength / ENTRY_SIZE : (tableLength * MAX_DEFLATE_RATIO) / ENTRY_SIZE;
    if (points < 1 || points > Math.min(most, MAX_POINTS))
      throw fail(
        'OBD_FORMAT_LIMIT',
        'number of entries',
        `1 to ${Math.floor(Math.min(most, MAX_POINTS))}`,
        points,
      );
    const stored = new Uint8Array(tableLength);
    await blob.read(tableStart, stored);
    const table = await unpack(stored, algorithm === 1, points * ENTRY_SIZE, blob.name, tableStart);
    const plainSize = number(49, 'plain file size');
    checkTable(table, { source: blob.name, tableStart, gzipSize, plainSize });
    return new GzipIndex(blob, { gzipSize, plainSize, compressed: algorithm === 1 }, table);
  }

  /** Number of the last point at or before a plain offset. The first point is at 0. */
  find(plainOffset: number): number {
    let low = 0;
    let high = this.points;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (this.#number(middle, 0) <= plainOffset) low = middle;
      else high = middle;
    }
    return low;
  }

  /** The point with that number. */
  point(number: number): RestartPoint {
    return {
      plainOffset: this.#number(number, 0),
      gzipOffset: this.#number(number, 8),
      bits: this.#table.readUInt8(number * ENTRY_SIZE + 24),
    };
  }

  /** The plain bytes from a point to the next, or to the end: first offset, and the one behind the last. */
  span(number: number): readonly [start: number, end: number] {
    const next = number + 1;
    return [this.#number(number, 0), next < this.points ? this.#number(next, 0) : this.plainSize];
  }

  /** The plain bytes before a point, at most {@link GZIP_WINDOW}. @throws FormatError */
  async dictionary(number: number): Promise<Uint8Array> {
    const stored = new Uint8Array(this.#table.readUInt32LE(number * ENTRY_SIZE + 25));
    const offset = this.#number(number, 16);
    await this.#blob.read(offset, stored);
    return unpack(stored, this.#compressed, GZIP_WINDOW, this.name, offset);
  }

  close(): Promise<void> {
    return this.#blob.close();
  }

  #number(point: number, at: number): number {
    return Number(this.#table.readBigInt64LE(point * ENTRY_SIZE + at));
  }
}

/** Exactly `length` bytes out of `stored`. */
async function unpack(
  stored: Uint8Array,
  compressed: boolean,
  length: number,
  source: string,
  offset: number,
): Promise<Buffer> {
  const fail = (actual: string, cause?: unknown): FormatError =>
    new FormatError(
      'OBD_FORMAT_BAD_INDEX',
      `Cannot read gzip index "${source}": part at byte ${offset} has ${actual}, expected ${length} plain bytes`,
      { source, offset, ...(cause === undefined ? {} : { cause }) },
    );
  let plain: Buffer;
  try {
    plain = compressed
      ? await inflateZlib(stored, { maxOutputLength: length })
      : Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength);
  } catch (cause) {
    throw fail('broken zlib data', cause);
  }
  if (plain.byteLength !== length) throw fail(`${plain.byteLength}`);
  return plain;
}

function checkTable(
  table: Buffer,
  file: {
    readonly source: string;
    readonly tableStart: number;
    readonly gzipSize: number;
    readonly plainSize: number;
  },
): void {
  let plainBefore = -1n;
  let gzipBefore = 0n;
  for (let at = 0; at < table.byteLength; at += ENTRY_SIZE) {
    const plain = table.readBigInt64LE(at);
    const gzip = table.readBigInt64LE(at + 8);
    const dictionary = table.readBigInt64LE(at + 16);
    const bits = table.readUInt8(at + 24);
    const stored = table.readUInt32LE(at + 25);
    const bad =
      plain <= plainBefore || plain > BigInt(file.plainSize) || (at === 0 && plain !== 0n)
        ? `plain offset ${plain}`
        : gzip < gzipBefore || gzip > BigInt(file.gzipSize) || (bits > 0 && gzip < 1n)
          ? `gzip offset ${gzip}`
          : bits > 7
            ? `${bits} bits`
            : stored > MAX_STORED_DICTIONARY ||
                dictionary < BigInt(HEADER_SIZE) ||
                dictionary + BigInt(stored) > BigInt(file.tableStart)
              ? `dictionary of ${stored} bytes at ${dictionary}`
              : undefined;
    if (bad !== undefined)
      throw new FormatError(
        'OBD_FORMAT_BAD_INDEX',
        `Cannot open gzip index "${file.source}": entry ${at / ENTRY_SIZE} has ${bad}`,
        { source: file.source, offset: file.tableStart },
      );
    plainBefore = plain;
    gzipBefore = gzip;
  }
}
