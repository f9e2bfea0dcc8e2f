/**
 * A segment is 16 bytes, four 32-bit words, in memory as on disk:
 *
 *          on disk (formats.md 1.2)                   in memory
 *   w0     offset, bits 0-31                          the same
 *   w1     offset, bits 32-49 | length << 18          the same
 *   w2     moffset, bits 0-31                         the same
 *   w3     moffset, bits 32-54 | zeroed << 23         moffset, bits 32-43 | tag << 12 (11 bits) | zeroed << 23
 *          | tag << 24
 *
 * One cache line holds four of them, a SharedArrayBuffer holds an index, and no 64-bit arithmetic is needed.
 * In memory the tag is wider than on disk: 255 layers of which each has two files need 510 of them. It fits because
 * a file position that a `number` can hold has 44 bits of sectors.
 *
 * `words` is the array of an index, `i` the number of the segment in it. Indexed reads are inside by the caller's
 * loop bounds; `?? 0` is for the type checker only.
 */

import { endianness } from 'node:os';

if (endianness() !== 'LE') throw new Error('overlaybd-ts needs a little-endian machine');

/** Words per segment. */
export const SEGMENT_WORDS = 4;
/** Bytes per segment. */
export const SEGMENT_SIZE = 16;
/** Most sectors of one segment: its length has 14 bits. */
export const MAX_SEGMENT_SECTORS = 16383;
/** Sector addresses and file positions stop here: 2^44 sectors are 2^53 bytes, the last a `number` can count. */
export const MAX_SECTORS = 2 ** 44;
/** Offset of a padding entry. */
export const PADDING_OFFSET = 2 ** 50 - 1;
/** Most data files of one index. */
export const MAX_TAGS = 2048;

/** Bit of word 3 that says zeroed. */
export const ZEROED_BIT = 1 << 23;
/** Bits of word 3 that hold the high part of moffset, in memory. */
export const MOFFSET_HIGH = 0xfff;

const TWO32 = 2 ** 32;

/** First sector covered. */
export function segmentStart(words: Uint32Array, i: number): number {
  const at = i * SEGMENT_WORDS;
  return ((words[at + 1] ?? 0) & 0x3ffff) * TWO32 + (words[at] ?? 0);
}

/** Sectors covered. */
export function segmentLength(words: Uint32Array, i: number): number {
  return (words[i * SEGMENT_WORDS + 1] ?? 0) >>> 18;
}

/** First sector after. */
export function segmentEnd(words: Uint32Array, i: number): number {
  const at = i * SEGMENT_WORDS;
  const w1 = words[at + 1] ?? 0;
  return (w1 & 0x3ffff) * TWO32 + (words[at] ?? 0) + (w1 >>> 18);
}

/** Where the data lies in its file, in sectors. */
export function segmentMoffset(words: Uint32Array, i: number): number {
  const at = i * SEGMENT_WORDS;
  return ((words[at + 3] ?? 0) & 0xfff) * TWO32 + (words[at + 2] ?? 0);
}

/** True if the segment reads as zeroes and hides what is below. */
export function isZeroed(words: Uint32Array, i: number): boolean {
  return ((words[i * SEGMENT_WORDS + 3] ?? 0) & ZEROED_BIT) !== 0;
}

/** Which file holds the data. */
export function segmentTag(words: Uint32Array, i: number): number {
  return ((words[i * SEGMENT_WORDS + 3] ?? 0) >>> 12) & 0x7ff;
}

/** Stores one segment. The caller has checked every range. */
export function setSegment(
  words: Uint32Array,
  i: number,
  start: number,
  length: number,
  moffset: number,
  zeroed: boolean,
  tag: number,
): void {
  const at = i * SEGMENT_WORDS;
  words[at] = start; // ToUint32 keeps the low half
  words[at + 1] = (start / TWO32) | 0 | (length << 18);
  words[at + 2] = moffset;
  words[at + 3] = (moffset / TWO32) | 0 | (tag << 12) | (zeroed ? ZEROED_BIT : 0);
}

/** Segments in order, `count` of them at the front of `words`. */
export interface Segments {
  readonly words: Uint32Array;
  readonly count: number;
}

/** One entry as it stands on disk, every field as large as it can be. For checks and dumps. */
export interface DiskEntry {
  readonly offset: number;
  readonly length: number;
  /** Exact up to 2^53, which is enough to refuse it. */
  readonly moffset: number;
  readonly zeroed: boolean;
  readonly tag: number;
}

/** Reads entry `i` of an on-disk index. */
export function diskEntry(words: Uint32Array, i: number): DiskEntry {
  const at = i * SEGMENT_WORDS;
  const w3 = words[at + 3] ?? 0;
  return {
    offset: segmentStart(words, i),
    length: segmentLength(words, i),
    moffset: (w3 & 0x7fffff) * TWO32 + (words[at + 2] ?? 0),
    zeroed: (w3 & ZEROED_BIT) !== 0,
    tag: w3 >>> 24,
  };
}

/** Stores segment `i` in its on-disk form. */
export function setDiskEntry(words: Uint32Array, i: number, entry: DiskEntry): void {
  const at = i * SEGMENT_WORDS;
  words[at] = entry.offset;
  words[at + 1] = (entry.offset / TWO32) | 0 | (entry.length << 18);
  words[at + 2] = entry.moffset;
  words[at + 3] = (entry.moffset / TWO32) | 0 | (entry.zeroed ? ZEROED_BIT : 0) | (entry.tag << 24);
}

/** True for a padding entry, which readers drop. */
export function isPadding(words: Uint32Array, i: number): boolean {
  return segmentStart(words, i) === PADDING_OFFSET;
}

/** The words of bytes read from disk, without a copy if they are aligned. */
export function wordsOf(bytes: Uint8Array): Uint32Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength >>> 2);
}
