/**
 * Reads a ZFile at any plain offset. A read becomes runs of neighbouring stored blocks, fetched with one inner read of
 * at most {@link RUN_BYTES} each; every block is checked and unpacked straight into the caller's buffer when it is
 * wanted whole. The last block that was wanted in part is kept unpacked, for callers that walk through large blocks in
 * small steps.
 */
import {
  checkRange,
  dropScratch,
  FormatError,
  localFileOf,
  refetchableOf,
  takeScratch,
  type ReadableBlob,
  type ReadOptions,
} from '../blob/index.js';
import { crc32c, decompress } from '../native/index.js';
import {
  BLOCK_CRC_SEED,
  CRC_SIZE,
  maxStoredLength,
  parseZFileEnd,
  ZFILE_END_SIZE,
  ZFileFlag,
  type ZFileEnd,
} from './format.js';
import { JumpTableBuilder, type JumpTable } from './jump-table.js';
import type { ZFileDescription } from './zfile-planner.js';

/** Most stored bytes of one inner read: enough to keep a disk streaming, small against a device's read-ahead. */
const RUN_BYTES = 512 * 1024;
/** Bytes of the jump table read at a time. */
const TABLE_STEP = 1024 * 1024;

/** A block that is kept unpacked. */
interface KeptBlock {
  readonly block: number;
  readonly plain: Uint8Array<ArrayBuffer>;
}

/** A ZFile, seen as the plain file. */
export class ZFileReader implements ReadableBlob {
  readonly name: string;
  readonly size: number;
  /** What the header (or the trailer, where that counts) says. */
  readonly end: ZFileEnd;
  readonly #inner: ReadableBlob;
  readonly #table: JumpTable;
  #partial: KeptBlock | undefined;

  private constructor(inner: ReadableBlob, end: ZFileEnd, table: JumpTable) {
    this.#inner = inner;
    this.#table = table;
    this.end = end;
    this.name = inner.name;
    this.size = end.plainSize;
  }

  /**
   * Reads and checks header, trailer and jump table. The reader owns `inner` from then on; on failure the caller does.
   * Memory: about 2.5 bytes per 4 KiB block, allocated only once the file proves large enough for that many blocks.
   * @throws FormatError of any code but OBD_FORMAT_CORRUPT_BLOCK.
   */
  static async open(inner: ReadableBlob, options?: ReadOptions): Promise<ZFileReader> {
    try {
      return await ZFileReader.#open(inner, options);
    } catch (error) {
      const source = refetchableOf(inner);
      if (source === undefined || !(error instanceof FormatError) || inner.size < 2 * ZFILE_END_SIZE)
        throw error;
      // A bad local copy of the ends or of the table between them: the table lies right before the trailer.
      await source.refetch(0, ZFILE_END_SIZE, options);
      await source.refetch(inner.size - ZFILE_END_SIZE, ZFILE_END_SIZE, options);
      const end = await readEnd(inner, options);
      checkShape(inner, end);
      if (end.blocks > 0) await source.refetch(end.indexOffset, 4 * end.blocks, options);
      return await ZFileReader.#open(inner, options);
    }
  }

  static async #open(inner: ReadableBlob, options?: ReadOptions): Promise<ZFileReader> {
    const end = await readEnd(inner, options);
    checkShape(inner, end);
    const builder = new JumpTableBuilder({
      source: inner.name,
      blocks: end.blocks,
      blockSize: end.blockSize,
      codec: end.codec,
      verify: end.verify,
      start: ZFILE_END_SIZE + end.dictionarySize,
      indexOffset: end.indexOffset,
    });
    const indexEnd = end.indexOffset + 4 * end.blocks;
    let crc = 0;
    for (let at = end.indexOffset; at < indexEnd; at += TABLE_STEP) {
      const piece = takeScratch(Math.min(TABLE_STEP, indexEnd - at));
      await inner.read(at, piece, options);
      crc = crc32c(piece, crc);
      builder.add(piece);
      dropScratch(piece);
    }
    if (hasDigest(end) && crc !== end.indexCrc)
      throw new FormatError(
        'OBD_FORMAT_CHECKSUM',
        `Cannot open ZFile "${inner.name}": crc of the jump table is 0x${crc.toString(16)}, expected 0x${end.indexCrc.toString(16)}`,
        { source: inner.name, offset: end.indexOffset, expected: end.indexCrc, actual: crc },
      );
    return new ZFileReader(inner, end, builder.finish());
  }

  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    checkRange(this, offset, into.byteLength);
    if (into.byteLength === 0) return;
    const last = offset + into.byteLength - 1;
    let block = Math.floor(offset / this.end.blockSize);
    while (block * this.end.blockSize <= last) {
      const partial = this.#partial;
      if (partial?.block === block) {
        this.#deliver(partial.plain, block, offset, into);
        block++;
        continue;
      }
      const start = this.#table.offset(block);
      let next = block + 1;
      while (next * this.end.blockSize <= last && this.#table.offset(next + 1) - start <= RUN_BYTES) next++;
      const run = takeScratch(this.#table.offset(next) - start);
      await this.#inner.read(start, run, options);
      for (; block < next; block++) {
        const at = this.#table.offset(block) - start;
        const stored = run.subarray(at, this.#table.offset(block + 1) - start);
        if (!this.#intact(stored)) await this.#refetch(block, stored, options);
        this.#unpack(block, stored, offset, into);
      }
      dropScratch(run);
    }
  }

  /** The ZFile as plain data for I/O workers; undefined if its stored bytes never lie in a local file. */
  describe(): ZFileDescription | undefined {
    const file = localFileOf(this.#inner);
    const { blockSize, codec, verify } = this.end;
    return file && { file, table: this.#table.description, size: this.size, blockSize, codec, verify };
  }

  /** Offset and length of a stored block in the inner blob. */
  storedBlock(block: number): { readonly offset: number; readonly length: number } {
    const offset = this.#table.offset(block);
    return { offset, length: this.#table.offset(block + 1) - offset };
  }

  /**
   * Checks stored bytes that are not yet where they belong: every block that lies wholly in `bytes`, which begin at
   * `start` of the ZFile. For caches, before they keep what they fetched. Does not keep `bytes`.
   * @throws FormatError OBD_FORMAT_CHECKSUM
   */
  checkStored(start: number, bytes: Uint8Array): void {
    if (!this.end.verify) return;
    const end = start + bytes.byteLength;
    for (let block = this.#table.firstFrom(start); block < this.#table.blocks; block++) {
      const stored = this.storedBlock(block);
      if (stored.offset + stored.length > end) return;
      const at = stored.offset - start;
      const piece = bytes.subarray(at, at + stored.length);
      if (!this.#intact(piece))
        throw this.#checksumError(block, piece, 'The copy that was fetched is damaged');
    }
  }

  /** Gives back the memory of the block that is kept for a read that goes on in it. */
  trim(): void {
    this.#keep(undefined);
  }

  close(): Promise<void> {
    this.trim();
    return this.#inner.close();
  }

  #plainLength(block: number): number {
    return Math.min(this.end.blockSize, this.size - block * this.end.blockSize);
  }

  #intact(stored: Uint8Array): boolean {
    return !this.end.verify || bodyCrc(stored) === storedCrc(stored);
  }

  /** Replaces `stored` from the source, once. @throws FormatError OBD_FORMAT_CHECKSUM */
  async #refetch(block: number, stored: Uint8Array, options?: ReadOptions): Promise<void> {
    const offset = this.#table.offset(block);
    const source = refetchableOf(this.#inner);
    if (source !== undefined) {
      await source.refetch(offset, stored.byteLength, options);
      await this.#inner.read(offset, stored, options);
      if (this.#intact(stored)) return;
    }
    throw this.#checksumError(
      block,
      stored,
      source
        ? 'It was fetched twice: the copy at the source is damaged, build the layer again'
        : 'The local file is damaged: remove it so that it is fetched again, or restore it',
    );
  }

  #checksumError(block: number, stored: Uint8Array, hint: string): FormatError {
    const offset = this.#table.offset(block);
    return new FormatError(
      'OBD_FORMAT_CHECKSUM',
      `Cannot read ZFile "${this.name}": crc error in block ${block} (${stored.byteLength} stored bytes at ${offset})`,
      { source: this.name, offset, expected: storedCrc(stored), actual: bodyCrc(stored), hint },
    );
  }

  #unpack(block: number, stored: Uint8Array, offset: number, into: Uint8Array): void {
    const body = this.end.verify ? stored.subarray(0, -CRC_SIZE) : stored;
    const length = this.#plainLength(block);
    const start = block * this.end.blockSize - offset;
    const whole = start >= 0 && start + length <= into.byteLength;
    const own = whole ? undefined : takeScratch(length);
    const plain = own ?? into.subarray(start, start + length);
    let n: number;
    try {
      n = decompress(this.end.codec, body, plain);
    } catch (cause) {
      throw this.#corrupt(block, `block ${block} does not decompress into ${length} bytes`, cause);
    }
    if (n !== length) throw this.#corrupt(block, `block ${block} has ${n} plain bytes, expected ${length}`);
    if (own === undefined) return;
    this.#keep({ block, plain: own });
    this.#deliver(own, block, offset, into);
  }

  /** Nobody holds the old one: what is kept is used within one turn of the event loop. */
  #keep(partial: KeptBlock | undefined): void {
    if (this.#partial !== undefined) dropScratch(this.#partial.plain);
    this.#partial = partial;
  }

  /** Copies what the range wants of an unpacked block. */
  #deliver(plain: Uint8Array, block: number, offset: number, into: Uint8Array): void {
    const start = block * this.end.blockSize - offset;
    into.set(plain.subarray(Math.max(0, -start), Math.max(0, into.byteLength - start)), Math.max(0, start));
  }

  #corrupt(block: number, what: string, cause?: unknown): FormatError {
    const { offset, length } = this.storedBlock(block);
    return new FormatError(
      'OBD_FORMAT_CORRUPT_BLOCK',
      `Cannot read ZFile "${this.name}": ${what} (${length} stored bytes at ${offset})`,
      {
        source: this.name,
        offset,
        hint: 'Its checksums hold, so it was written like this: build the layer again',
        ...(cause === undefined ? {} : { cause }),
      },
    );
  }
}

function storedCrc(stored: Uint8Array): number {
  return Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength).readUInt32LE(
    stored.byteLength - CRC_SIZE,
  );
}

function bodyCrc(stored: Uint8Array): number {
  return crc32c(stored.subarray(0, -CRC_SIZE), BLOCK_CRC_SEED);
}

function hasDigest(end: ZFileEnd): boolean {
  return (end.flags & ZFileFlag.DIGEST) !== 0 && !end.legacy;
}

/** The header if it carries final values, else the trailer. */
async function readEnd(inner: ReadableBlob, options?: ReadOptions): Promise<ZFileEnd> {
  if (inner.size < 2 * ZFILE_END_SIZE)
    throw new FormatError(
      'OBD_FORMAT_TRUNCATED',
      `Cannot open ZFile "${inner.name}": file too short, it has ${inner.size} bytes, expected at least ${2 * ZFILE_END_SIZE}`,
      { source: inner.name, expected: 2 * ZFILE_END_SIZE, actual: inner.size },
    );
  const bytes = new Uint8Array(ZFILE_END_SIZE);
  await inner.read(0, bytes, options);
  const header = parseZFileEnd(bytes, 'header', inner.name, 0);
  if ((header.flags & ZFileFlag.FINAL) !== 0 && !header.legacy) return header;
  const offset = inner.size - ZFILE_END_SIZE;
  await inner.read(offset, bytes, options);
  const trailer = parseZFileEnd(bytes, 'trailer', inner.name, offset, !header.legacy);
  return { ...trailer, legacy: header.legacy || trailer.legacy };
}

/** Everything about the jump table that can be checked before it is read. */
function checkShape(inner: ReadableBlob, end: ZFileEnd): void {
  const source = inner.name;
  const fail = (what: string): never => {
    throw new FormatError('OBD_FORMAT_BAD_INDEX', `Cannot open ZFile "${source}": ${what}`, {
      source,
      offset: end.indexOffset,
    });
  };
  const blocks = Math.ceil(end.plainSize / end.blockSize);
  if (end.blocks !== blocks)
    fail(
      `jump table has ${end.blocks} entries, expected ${blocks} for ${end.plainSize} bytes in blocks of ${end.blockSize}`,
    );
  const indexEnd = end.indexOffset + 4 * end.blocks;
  if (indexEnd > inner.size - ZFILE_END_SIZE)
    fail(
      `jump table [${end.indexOffset}, ${indexEnd}) and the trailer behind it do not fit the file of ${inner.size} bytes: it is cut off, or the header is wrong`,
    );
  const dataStart = ZFILE_END_SIZE + end.dictionarySize;
  const least = dataStart + end.blocks * (end.verify ? CRC_SIZE + 1 : 1);
  const most = dataStart + end.blocks * maxStoredLength(end.codec, end.blockSize, end.verify);
  if (end.indexOffset < least || end.indexOffset > most)
    fail(
      `jump table begins at byte ${end.indexOffset}, expected ${least} to ${most} behind ${end.blocks} blocks`,
    );
}
