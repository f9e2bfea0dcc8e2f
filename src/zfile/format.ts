/**
 * The 512-byte header and trailer of a ZFile (docs/formats/zfile.md). Both have one structure; flags tell which is
 * which. Old files hold uninitialised memory in every field that had no meaning yet, so what is noise and what is a
 * fault is decided here, in {@link parseZFileEnd}.
 */
import { FormatError } from '../blob/index.js';
import { Codec, compressBound, crc32c } from '../native/index.js';

/** Bytes of the header, and of the trailer. */
export const ZFILE_END_SIZE = 512;
/** Bytes of the checksum behind each stored block. */
export const CRC_SIZE = 4;
/** Seed of the block checksum. */
export const BLOCK_CRC_SEED = 100007;
/** Block sizes that are read: powers of two between these. Tools write 4 KiB to 64 KiB. */
export const MIN_BLOCK_SIZE = 512;
export const MAX_BLOCK_SIZE = 65536;
/** Most blocks of a file, as in the reference. */
export const MAX_BLOCKS = 1_000_000_000;

const MAGIC = Buffer.from('ZFile\0\x01\0tuji.yyf@Alibaba', 'latin1');
const USED_SIZE = 96;

/** Bits of the flags word. Bit 5 (compressed jump table) is defined by the format and used by nobody. */
export const ZFileFlag = { HEADER: 1, DATA: 2, SEALED: 4, FINAL: 8, DIGEST: 16 } as const;
/** Flags of the header while the data is written, of the trailer, and of the header once it has final values. */
export const INITIAL_HEADER_FLAGS = ZFileFlag.HEADER | ZFileFlag.DATA | ZFileFlag.DIGEST;
export const TRAILER_FLAGS = ZFileFlag.DATA | ZFileFlag.SEALED | ZFileFlag.DIGEST;
export const FINAL_HEADER_FLAGS = ZFileFlag.HEADER | ZFileFlag.DATA | ZFileFlag.FINAL | ZFileFlag.DIGEST;

/** What a header or trailer says. */
export interface ZFileEnd {
  /** Low byte of the flags word; the rest is noise in old files. */
  readonly flags: number;
  /** Offset of the jump table. */
  readonly indexOffset: number;
  /** Number of blocks. */
  readonly blocks: number;
  /** Length of the plain file. */
  readonly plainSize: number;
  readonly indexCrc: number;
  readonly blockSize: number;
  readonly codec: Codec;
  /** Bytes between the header and block 0. */
  readonly dictionarySize: number;
  /** True if each stored block ends with its checksum. */
  readonly verify: boolean;
  /** True if bytes are set that every current writer leaves zero: then digest and `FINAL` mean nothing. */
  readonly legacy: boolean;
}

/** True if `start`, the first bytes of a file (24 are enough), are those of a ZFile. */
export function isZFile(start: Uint8Array): boolean {
  return start.byteLength >= MAGIC.length && MAGIC.equals(start.subarray(0, MAGIC.length));
}

/** Most bytes that a stored block may take, checksum included. */
export function maxStoredLength(codec: Codec, blockSize: number, verify: boolean): number {
  return compressBound(codec, blockSize) + (verify ? CRC_SIZE : 0);
}

function digest(bytes: Buffer): number {
  const copy = Buffer.from(bytes);
  copy.writeUInt32LE(0, 28);
  return crc32c(copy, 0);
}

/**
 * Reads and checks a header (`part` header) or trailer.
 * @param offset where `bytes` lie in `source`, for errors.
 * @param trustDigest false for the trailer of a file whose header is `legacy`.
 * @throws FormatError OBD_FORMAT_BAD_MAGIC, BAD_HEADER, BAD_TRAILER, CHECKSUM, UNSUPPORTED, LIMIT.
 */
export function parseZFileEnd(
  bytes: Uint8Array,
  part: 'header' | 'trailer',
  source: string,
  offset: number,
  trustDigest = true,
): ZFileEnd {
  const b = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const bad = part === 'header' ? 'OBD_FORMAT_BAD_HEADER' : 'OBD_FORMAT_BAD_TRAILER';
  const fail = (
    code: FormatError['code'],
    what: string,
    expected: string | number,
    actual: string | number,
  ): never => {
    throw new FormatError(
      code,
      `Cannot open ZFile "${source}": ${part} ${what} is ${actual}, expected ${expected}`,
      {
        source,
        offset,
        expected,
        actual,
        ...(part === 'trailer' ? { hint: 'The file may be cut off' } : {}),
      },
    );
  };
  if (!isZFile(b))
    fail(
      part === 'header' ? 'OBD_FORMAT_BAD_MAGIC' : bad,
      'magic',
      MAGIC.toString('hex'),
      b.toString('hex', 0, MAGIC.length),
    );
  const flags = b.readUInt8(32);
  const legacy = b.subarray(USED_SIZE).some((byte) => byte !== 0);
  if ((flags & ZFileFlag.DIGEST) !== 0 && !legacy && trustDigest) {
    const expected = digest(b);
    if (b.readUInt32LE(28) !== expected)
      fail('OBD_FORMAT_CHECKSUM', 'digest', hex(expected), hex(b.readUInt32LE(28)));
  }
  const wanted = part === 'header' ? ZFileFlag.HEADER : ZFileFlag.DATA | ZFileFlag.SEALED;
  const relevant = part === 'header' ? ZFileFlag.HEADER : ZFileFlag.HEADER | wanted;
  if ((flags & relevant) !== wanted)
    fail(bad, 'flags', `bits ${hex(relevant)} = ${hex(wanted)}`, `${hex(flags)}, not those of a ${part}`);
  const blockSize = b.readUInt32LE(72);
  if (blockSize < MIN_BLOCK_SIZE || blockSize > MAX_BLOCK_SIZE || (blockSize & (blockSize - 1)) !== 0)
    fail(bad, 'block size', `a power of two from ${MIN_BLOCK_SIZE} to ${MAX_BLOCK_SIZE}`, blockSize);
  const codec = b.readUInt8(76);
  if (codec !== Codec.LZ4 && codec !== Codec.ZSTD)
    return fail('OBD_FORMAT_UNSUPPORTED', 'compression algorithm', '1 (LZ4) or 2 (zstd)', codec);
  if (b.readUInt8(78) !== 0) fail('OBD_FORMAT_UNSUPPORTED', 'use_dict', '0 (no dictionary)', b.readUInt8(78));
  const number = (at: number, what: string, most: number): number => {
    const value = b.readBigUInt64LE(at);
    if (value > BigInt(most)) fail('OBD_FORMAT_LIMIT', what, `at most ${most}`, value.toString());
    return Number(value);
  };
  // An old header's numbers may be noise; it is never used for more than its kind.
  const noise = part === 'header' && (legacy || (flags & ZFileFlag.FINAL) === 0);
  return {
    flags,
    indexOffset: noise ? 0 : number(40, 'index offset', Number.MAX_SAFE_INTEGER),
    blocks: noise ? 0 : number(48, 'number of blocks', MAX_BLOCKS),
    plainSize: noise ? 0 : number(56, 'original file size', MAX_BLOCKS * MAX_BLOCK_SIZE),
    indexCrc: b.readUInt32LE(64),
    blockSize,
    codec,
    dictionarySize: b.readUInt32LE(84),
    verify: b.readUInt8(88) !== 0,
    legacy,
  };
}

/** The 512 bytes of a header or trailer, digest included. */
export function encodeZFileEnd(end: Omit<ZFileEnd, 'legacy'>): Uint8Array {
  const b = Buffer.alloc(ZFILE_END_SIZE);
  MAGIC.copy(b);
  b.writeUInt32LE(USED_SIZE, 24);
  b.writeUInt32LE(end.flags, 32);
  b.writeBigUInt64LE(BigInt(end.indexOffset), 40);
  b.writeBigUInt64LE(BigInt(end.blocks), 48);
  b.writeBigUInt64LE(BigInt(end.plainSize), 56);
  b.writeUInt32LE(end.indexCrc, 64);
  b.writeUInt32LE(end.blockSize, 72);
  b.writeUInt8(end.codec, 76);
  b.writeUInt32LE(end.dictionarySize, 84);
  b.writeUInt8(end.verify ? 1 : 0, 88);
  b.writeUInt32LE(digest(b), 28);
  return b;
}

function hex(value: number): string {
  return '0x' + value.toString(16);
}

/** Smallest block that other programs can read, and what layers have. */
export const LEAST_BLOCK_SIZE = 4096;

/** @throws RangeError unless it is a block size that may be written. */
export function checkBlockSize(size: number): void {
  if (size < LEAST_BLOCK_SIZE || size > MAX_BLOCK_SIZE || (size & (size - 1)) !== 0)
    throw new RangeError(
      `ZFile block size is ${size}, expected a power of two from ${LEAST_BLOCK_SIZE} to ${MAX_BLOCK_SIZE}`,
    );
}
