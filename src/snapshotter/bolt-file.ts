/**
 * Reads a database of bbolt, Go's embedded store, of which the reference's snapshotter has one. Nothing is written, and
 * nobody may write meanwhile. Little-endian, as bbolt writes it on every machine that we run on.
 *
 *   page    0 number, 8 flags, 10 count of elements, 12 count of further pages; 16 the elements
 *   meta    the first two pages, each 0 magic, 4 version, 8 page size, 16 root bucket, 32 free list, 40 count of pages,
 *           48 transaction, 56 FNV-1a of what is before; the newer one that is whole counts
 *   bucket  0 number of its root page, or 0: the page follows at 16; 8 sequence
 *   branch  elements 0 place of the key, 4 its length, 8 number of the page below
 *   leaf    elements 0 flags (1: the value is a bucket), 4 place of the key, 8 its length, 12 length of the value behind it
 *
 * Places count from their element. Everything is checked before it is believed: a page is visited once, what elements say
 * lies one behind the other within their page, and keys ascend; so no file makes more work than it has bytes.
 *
 * Source: page.go, db.go and bucket.go of go.etcd.io/bbolt 1.3.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { SnapshotError } from '../blob/index.js';

const PAGE_HEADER = 16;
const ELEMENT = 16;
const BUCKET_HEADER = 16;
const FLAG = { branch: 1, leaf: 2 } as const;
const IS_BUCKET = 1;
const META = { end: 64, magic: 0xed0cdaed, version: 2 } as const;
const PAGE_SIZES: readonly number[] = [4096, 8192, 16384, 32768, 65536];
/** A snapshot takes about a kilobyte: far more than a node has. All of it is read into memory. */
const MAX_BYTES = 2 ** 30;
/** Pages hold two keys at least: a tree as high has more pages than a file can. */
const MAX_HEIGHT = 48;

/** A bucket: a sorted map to bytes and further buckets. */
export interface BoltBucket {
  /** The last number that it gave out. */
  readonly sequence: bigint;
  /** To be read once. @throws SnapshotError OBD_SNAPSHOT_METADATA */
  entries(): Iterable<readonly [key: Buffer, value: Buffer | BoltBucket]>;
}

/**
 * Reads a file whole.
 * @returns its root bucket. @throws SnapshotError OBD_SNAPSHOT_METADATA if it is damaged; errors of node:fs.
 */
export function readBoltFile(path: string): BoltBucket {
  return new BoltFile(path, readAll(path)).root();
}

function readAll(path: string): Buffer {
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    if (size > MAX_BYTES) throw damaged(path, 'its size', 0, `at most ${MAX_BYTES}`, size);
    const bytes = Buffer.alloc(size);
    let done = 0;
    for (let got = 1; done < size && got > 0; done += got) got = readSync(fd, bytes, done, size - done, done);
    return bytes.subarray(0, done);
  } finally {
    closeSync(fd);
  }
}

/** The error for a file that is not what it should be, or says what cannot be. */
export function damaged(
  path: string,
  what: string,
  offset: number,
  expected: unknown,
  actual: unknown,
): SnapshotError {
  return new SnapshotError(
    'OBD_SNAPSHOT_METADATA',
    `Cannot take over "${path}": ${what} at offset ${offset} is ${String(actual)}, expected ${String(expected)}`,
    {
      source: path,
      offset,
      hint: 'The file is damaged or of another program. Put back a copy of it, or choose an empty directory as "root" and pull the images again',
    },
  );
}

class BoltFile {
  readonly #path: string;
  readonly #bytes: Buffer;
  readonly #pageSize: number;
  readonly #root: { readonly page: bigint; readonly sequence: bigint };
  readonly #pages: bigint;
  readonly #visited = new Set<bigint>();

  constructor(path: string, bytes: Buffer) {
    this.#path = path;
    this.#bytes = bytes;
    const meta = this.#newestMeta();
    this.#pageSize = bytes.readUInt32LE(meta + 8);
    this.#root = { page: bytes.readBigUInt64LE(meta + 16), sequence: bytes.readBigUInt64LE(meta + 24) };
    this.#pages = bytes.readBigUInt64LE(meta + 40);
  }

  root(): BoltBucket {
    const { page, sequence } = this.#root;
    return { sequence, entries: () => this.#walk(page, 0) };
  }

  /** @returns its offset. Where the second one lies follows from the first; if that is damaged, it is looked for. */
  #newestMeta(): number {
    const problems: SnapshotError[] = [];
    const found: number[] = [];
    const first = this.#metaProblem(0, PAGE_SIZES);
    if (first === undefined) found.push(PAGE_HEADER);
    else problems.push(first);
    for (const size of first === undefined ? [this.#bytes.readUInt32LE(PAGE_HEADER + 8)] : PAGE_SIZES)
      if (this.#metaProblem(size, [size]) === undefined) found.push(size + PAGE_HEADER);
    const transaction = (at: number): bigint => this.#bytes.readBigUInt64LE(at + 48);
    const newest = found.reduce<number | undefined>(
      (best, at) => (best === undefined || transaction(at) > transaction(best) ? at : best),
      undefined,
    );
    if (newest === undefined) throw problems[0] ?? new TypeError('No meta page and no problem');
    return newest;
  }

  #metaProblem(page: number, sizes: readonly number[]): SnapshotError | undefined {
    const at = page + PAGE_HEADER;
    const bytes = this.#bytes;
    if (bytes.byteLength < at + META.end)
      return this.#bad('the length of the file', 0, `at least ${at + META.end}`, bytes.byteLength);
    const magic = bytes.readUInt32LE(at);
    if (magic !== META.magic)
      return this.#bad(
        'the magic number',
        at,
        `0x${META.magic.toString(16)} (bbolt)`,
        `0x${magic.toString(16)}`,
      );
    const version = bytes.readUInt32LE(at + 4);
    if (version !== META.version) return this.#bad('the version', at + 4, META.version, version);
    const size = bytes.readUInt32LE(at + 8);
    if (!sizes.includes(size)) return this.#bad('the page size', at + 8, sizes.join(' or '), size);
    const sum = bytes.readBigUInt64LE(at + 56);
    const expected = fnv1a(bytes.subarray(at, at + 56));
    return sum === expected
      ? undefined
      : this.#bad('the checksum', at + 56, `0x${expected.toString(16)}`, `0x${sum.toString(16)}`);
  }

  /** All of a tree of pages, in the order of keys. */
  *#walk(page: bigint, height: number): Generator<readonly [Buffer, Buffer | BoltBucket]> {
    const start = Number(page) * this.#pageSize;
    if (page < 2n || page >= this.#pages || start + PAGE_HEADER > this.#bytes.byteLength)
      throw this.#bad(
        'the number of a page',
        Math.min(start, this.#bytes.byteLength),
        'one of the file',
        page,
      );
    if (height > MAX_HEIGHT) throw this.#bad('the height of a tree', start, `at most ${MAX_HEIGHT}`, height);
    if (this.#visited.has(page)) throw this.#bad('a page', start, 'in one place of the tree', 'in two');
    this.#visited.add(page);
    const number = this.#bytes.readBigUInt64LE(start);
    if (number !== page) throw this.#bad('the number of a page', start, page, number);
    const end = start + (1 + this.#bytes.readUInt32LE(start + 12)) * this.#pageSize;
    if (end > this.#bytes.byteLength)
      throw this.#bad('the end of a page', start + 12, `at most ${this.#bytes.byteLength}`, end);
    yield* this.#elements(start, end, height);
  }

  *#elements(start: number, end: number, height: number): Generator<readonly [Buffer, Buffer | BoltBucket]> {
    const bytes = this.#bytes;
    const flags = bytes.readUInt16LE(start + 8);
    if (flags !== FLAG.branch && flags !== FLAG.leaf)
      throw this.#bad('the flags of a page', start + 8, '1 (branch) or 2 (leaf)', flags);
    const count = bytes.readUInt16LE(start + 10);
    let free = start + PAGE_HEADER + count * ELEMENT;
    if (free > end)
      throw this.#bad('the count of elements', start + 10, `at most what ${end - start} bytes hold`, count);
    let last: Buffer | undefined;
    for (let i = 0; i < count; i++) {
      const at = start + PAGE_HEADER + i * ELEMENT;
      const field = flags === FLAG.leaf ? at + 4 : at;
      const key = at + bytes.readUInt32LE(field);
      const value = key + bytes.readUInt32LE(field + 4);
      const stop = flags === FLAG.leaf ? value + bytes.readUInt32LE(field + 8) : value;
      if (key < free || stop > end)
        throw this.#bad('the place of an element', at, `within ${free} to ${end}`, `${key} to ${stop}`);
      free = stop;
      const name = bytes.subarray(key, value);
      if (last !== undefined && Buffer.compare(last, name) >= 0)
        throw this.#bad('a key', key, 'greater than the one before', JSON.stringify(name.toString('latin1')));
      last = name;
      if (flags === FLAG.branch) yield* this.#walk(bytes.readBigUInt64LE(at + 8), height + 1);
      else
        yield [
          name,
          (bytes.readUInt32LE(at) & IS_BUCKET) === 0
            ? bytes.subarray(value, stop)
            : this.#bucket(value, stop, height + 1),
        ];
    }
  }

  #bucket(start: number, end: number, height: number): BoltBucket {
    if (end - start < BUCKET_HEADER)
      throw this.#bad('the length of a bucket', start, `at least ${BUCKET_HEADER}`, end - start);
    const page = this.#bytes.readBigUInt64LE(start);
    const sequence = this.#bytes.readBigUInt64LE(start + 8);
    if (page !== 0n) return { sequence, entries: () => this.#walk(page, height) };
    const inside = start + BUCKET_HEADER;
    if (end - inside < PAGE_HEADER)
      throw this.#bad(
        'the length of a bucket',
        start,
        `at least ${BUCKET_HEADER + PAGE_HEADER}`,
        end - start,
      );
    return { sequence, entries: () => this.#elements(inside, end, height) };
  }

  #bad(what: string, offset: number, expected: unknown, actual: unknown): SnapshotError {
    return damaged(this.#path, what, offset, expected, actual);
  }
}

function fnv1a(bytes: Uint8Array): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of bytes) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffff_ffff_ffff_ffffn;
  return hash;
}
