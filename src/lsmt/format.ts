/**
 * The 4096-byte block at both ends of every LSMT file (docs/formats/lsmt.md, "Header and trailer").
 *
 *   0    8   magic0          "LSMT" 0 1 2 0
 *   8   16   magic1          a fixed UUID
 *   24   4   stated size     390, never checked
 *   28   4   flags           HeaderFlag
 *   32   8   index offset    bytes
 *   40   8   index count     entries, padding included
 *   48   8   virtual size    bytes; 0 = inherit from below
 *   56  37   uuid            text, NUL
 *   93  37   parent uuid     text, NUL
 *  130   2   reserved        0
 *  132   1   version         1, never checked
 *  133   1   sub version     1, never checked
 *  134 256   user tag        free bytes
 *  390 3706  zeroes          sum 4096
 *
 * There is no checksum in LSMT: integrity comes from the ZFile inside which it is shipped.
 */

import { FormatError, type CodeOf } from '../blob/index.js';

/** Bytes of a header or trailer block. */
export const HEADER_SIZE = 4096;
/** Sectors of a header block: the lowest legal `moffset` of data. */
export const HEADER_SECTORS = 8;
/** Bytes of the user tag field. */
export const USER_TAG_SIZE = 256;
/** Most entries, padding included, that current readers accept in one sealed layer (formats.md 1.6). */
export const MAX_SEALED_ENTRIES = 1_000_000;
/** Most entries of a merged index or of the log of a writable layer (formats.md 1.6). */
export const MAX_MERGED_ENTRIES = 128_000_000;

/** Bits of `flags`. Other bits carry no meaning and are ignored (formats.md 1.1: bits 3 and 5 exist in notes only). */
export const HeaderFlag = {
  /** Header block; clear in a trailer. */
  HEADER: 1,
  /** Data file; clear in an index file. */
  DATA: 2,
  SEALED: 4,
  /** Sparse writable data file; clear in a log-structured one. */
  SPARSE: 16,
} as const;

const STATED_SIZE = 390;
const MAGIC = Uint8Array.of(
  ...[0x4c, 0x53, 0x4d, 0x54, 0x00, 0x01, 0x02, 0x00],
  ...[0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a],
);
const UUID_OFFSET = 56;
const PARENT_OFFSET = 93;
const TAG_OFFSET = 134;
const NULL_UUID = '00000000-0000-0000-0000-000000000000';
const UUID_PATTERN = /^[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}$/;

/** A header or trailer as it stands on disk; 64-bit fields are not yet checked against anything. */
export interface LayerHeader {
  readonly flags: number;
  readonly indexOffset: bigint;
  readonly indexCount: bigint;
  readonly virtualSize: bigint;
  /** Upper case; null if zero, empty or not a UUID. */
  readonly uuid: string | null;
  readonly parentUuid: string | null;
  readonly version: number;
  readonly subVersion: number;
  /** Without trailing NULs. */
  readonly userTag: Uint8Array;
}

/** Fields of a block to write. */
export interface HeaderFields {
  readonly flags: number;
  readonly indexOffset?: number;
  readonly indexCount?: number;
  readonly virtualSize: number;
  readonly uuid?: string | null;
  readonly parentUuid?: string | null;
  readonly userTag?: Uint8Array;
}

/** True if `bytes` begins as every LSMT file does; it needs the first 24 bytes. */
export function hasLayerMagic(bytes: Uint8Array): boolean {
  return bytes.byteLength >= MAGIC.byteLength && MAGIC.every((byte, i) => bytes[i] === byte);
}

/**
 * Upper-case form of a UUID given by a user; null for the null UUID.
 * @throws TypeError if `text` is no UUID.
 */
export function normalUuid(text: string): string | null {
  const upper = text.toUpperCase();
  if (!UUID_PATTERN.test(upper)) throw new TypeError(`Not a UUID: "${text}"`);
  return upper === NULL_UUID ? null : upper;
}

function readUuid(block: Uint8Array, offset: number): string | null {
  if (block[offset + 36] !== 0) return null;
  const text = String.fromCharCode(...block.subarray(offset, offset + 36)).toUpperCase();
  return UUID_PATTERN.test(text) && text !== NULL_UUID ? text : null;
}

function writeUuid(block: Uint8Array, offset: number, uuid: string | null | undefined): void {
  const text = uuid === null || uuid === undefined ? NULL_UUID : (normalUuid(uuid) ?? NULL_UUID);
  for (let i = 0; i < 36; i++) block[offset + i] = text.charCodeAt(i);
}

/** Names a block in errors: which file, which end. */
export interface BlockPlace {
  readonly source: string;
  /** Byte offset of the block. */
  readonly offset: number;
  readonly kind: 'header' | 'trailer' | 'index header';
}

/** The error for a wrong field of a block. */
export function blockError(
  place: BlockPlace,
  what: string,
  expected: string | number,
  actual: string | number,
  hint?: string,
): FormatError {
  const code: CodeOf<'FORMAT'> =
    what === 'magic'
      ? place.kind === 'trailer'
        ? 'OBD_FORMAT_BAD_TRAILER'
        : 'OBD_FORMAT_BAD_MAGIC'
      : place.kind === 'trailer'
        ? 'OBD_FORMAT_BAD_TRAILER'
        : 'OBD_FORMAT_BAD_HEADER';
  return new FormatError(
    code,
    `Cannot open layer "${place.source}": ${place.kind} ${what} is ${actual}, expected ${expected} (at byte ${place.offset})`,
    { source: place.source, offset: place.offset, expected, actual, ...(hint === undefined ? {} : { hint }) },
  );
}

/**
 * Parses one block of 4096 bytes. Checks the magic and nothing else.
 * @throws FormatError OBD_FORMAT_BAD_MAGIC, or OBD_FORMAT_BAD_TRAILER for a trailer.
 */
export function parseHeader(block: Uint8Array, place: BlockPlace): LayerHeader {
  if (block.byteLength < HEADER_SIZE)
    throw new TypeError(`LSMT block is ${block.byteLength} bytes, expected 4096`);
  if (!hasLayerMagic(block)) {
    const start = Buffer.from(block.subarray(0, MAGIC.byteLength)).toString('hex');
    throw blockError(
      place,
      'magic',
      Buffer.from(MAGIC).toString('hex'),
      start,
      place.kind === 'trailer'
        ? 'The file was cut off, or something was appended to it: fetch it again'
        : 'This is not an overlaybd layer (or it is still wrapped in tar or ZFile)',
    );
  }
  const view = new DataView(block.buffer, block.byteOffset, HEADER_SIZE);
  const tag = block.subarray(TAG_OFFSET, TAG_OFFSET + USER_TAG_SIZE);
  let tagLength = USER_TAG_SIZE;
  while (tagLength > 0 && tag[tagLength - 1] === 0) tagLength--;
  return {
    flags: view.getUint32(28, true),
    indexOffset: view.getBigUint64(32, true),
    indexCount: view.getBigUint64(40, true),
    virtualSize: view.getBigUint64(48, true),
    uuid: readUuid(block, UUID_OFFSET),
    parentUuid: readUuid(block, PARENT_OFFSET),
    version: view.getUint8(132),
    subVersion: view.getUint8(133),
    userTag: tag.slice(0, tagLength),
  };
}

/**
 * Makes one block of 4096 bytes.
 * @throws TypeError for a malformed uuid, RangeError for a user tag of more than 256 bytes.
 */
export function encodeHeader(fields: HeaderFields): Uint8Array {
  const block = new Uint8Array(HEADER_SIZE);
  const view = new DataView(block.buffer);
  block.set(MAGIC);
  view.setUint32(24, STATED_SIZE, true);
  view.setUint32(28, fields.flags, true);
  view.setBigUint64(32, BigInt(fields.indexOffset ?? 0), true);
  view.setBigUint64(40, BigInt(fields.indexCount ?? 0), true);
  view.setBigUint64(48, BigInt(fields.virtualSize), true);
  writeUuid(block, UUID_OFFSET, fields.uuid);
  writeUuid(block, PARENT_OFFSET, fields.parentUuid);
  view.setUint8(132, 1);
  view.setUint8(133, 1);
  if (fields.userTag !== undefined) {
    if (fields.userTag.byteLength > USER_TAG_SIZE)
      throw new RangeError(`User tag is ${fields.userTag.byteLength} bytes, at most ${USER_TAG_SIZE} fit`);
    block.set(fields.userTag, TAG_OFFSET);
  }
  return block;
}

/** Offset of the virtual size field, the only one that is ever rewritten. */
export const VIRTUAL_SIZE_OFFSET = 48;
