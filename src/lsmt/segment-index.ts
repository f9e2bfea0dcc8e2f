/**
 * The immutable index of one layer or of a whole stack: sorted, disjoint segments and a directory that makes a lookup
 * one array read and a short binary search.
 *
 *   directory[b] = number of the first segment that starts at or after sector b << shift        (buckets + 1 entries)
 *
 * There are about twice as many buckets as segments, so a bucket holds few; and `shift` is at most 32, so inside one
 * bucket the low 32 bits of the start decide the order and the search compares plain integers. Beyond 2^32 sectors
 * (2 TiB) nothing changes but the number of buckets: 2^44 sectors are 4096 buckets of 2^32.
 *
 * Everything lies in one SharedArrayBuffer, so an index is posted to a worker without a copy:
 *
 *   | directory: (buckets + 1) x u32 | padding to 16 bytes | segments: count x 16 bytes |
 */

import { dropScratch, sharedCopy, takeScratch } from '../blob/index.js';
import {
  isZeroed,
  segmentEnd,
  segmentLength,
  segmentMoffset,
  segmentStart,
  segmentTag,
  SEGMENT_SIZE,
  SEGMENT_WORDS,
  type Segments,
} from './segment.js';

/** In {@link SegmentList.tag}: no layer says anything here; it reads as zeroes. */
export const HOLE = -2;
/** In {@link SegmentList.tag}: a layer says zeroes here. */
export const ZEROED = -1;

/**
 * The answer to a lookup: consecutive pieces that cover the asked range without a gap. Reused from call to call; it
 * grows when an answer needs more room than ever before (at most one piece per sector), else nothing is allocated.
 */
export class SegmentList {
  /** Pieces in this answer. */
  length = 0;
  /** First sector of each piece. */
  lba: Float64Array;
  /** Sectors of each piece. */
  sectors: Float64Array;
  /** Sector in the file `tag` where the piece lies; 0 for zeroes. */
  moffset: Float64Array;
  /** Number of the file, or {@link ZEROED} or {@link HOLE}. */
  tag: Int16Array;

  constructor(capacity = 64) {
    this.lba = new Float64Array(capacity);
    this.sectors = new Float64Array(capacity);
    this.moffset = new Float64Array(capacity);
    this.tag = new Int16Array(capacity);
  }

  /** Appends one piece. */
  push(lba: number, sectors: number, moffset: number, tag: number): void {
    const i = this.length;
    if (i === this.lba.length) this.#grow();
    this.lba[i] = lba;
    this.sectors[i] = sectors;
    this.moffset[i] = moffset;
    this.tag[i] = tag;
    this.length = i + 1;
  }

  #grow(): void {
    const capacity = this.lba.length * 2;
    const lba = new Float64Array(capacity);
    const sectors = new Float64Array(capacity);
    const moffset = new Float64Array(capacity);
    const tag = new Int16Array(capacity);
    lba.set(this.lba);
    sectors.set(this.sectors);
    moffset.set(this.moffset);
    tag.set(this.tag);
    this.lba = lba;
    this.sectors = sectors;
    this.moffset = moffset;
    this.tag = tag;
  }
}

/** An index as plain data over shared memory, fit for `postMessage`. */
export interface SegmentIndexData {
  readonly buffer: SharedArrayBuffer;
  readonly count: number;
  readonly shift: number;
  readonly buckets: number;
}

/** Segments of one layer or one stack, asked by sector. Immutable; any thread. */
export class SegmentIndex {
  readonly #words: Uint32Array;
  readonly #directory: Uint32Array;
  readonly #data: SegmentIndexData;
  readonly #count: number;
  readonly #buckets: number;
  /** 2^-shift: a multiplication is exact and quicker than a division. */
  readonly #scale: number;

  private constructor(data: SegmentIndexData) {
    this.#data = data;
    this.#count = data.count;
    this.#buckets = data.buckets;
    this.#scale = 2 ** -data.shift;
    this.#directory = new Uint32Array(data.buffer, 0, data.buckets + 1);
    const at = segmentsAt(data.buckets);
    this.#words = new Uint32Array(data.buffer, at, data.count * SEGMENT_WORDS);
  }

  /**
   * Copies sorted, disjoint segments without zero-length ones (the caller has checked) into shared memory, or finds that
   * an equal index is there. O(n).
   */
  static build(segments: Segments): SegmentIndex {
    const { words, count } = segments;
    const end = count === 0 ? 0 : segmentEnd(words, count - 1);
    let shift = 0;
    while (shift < 32 && end / 2 ** shift > 2 * count) shift++;
    const buckets = Math.ceil(end / 2 ** shift);
    const at = segmentsAt(buckets);
    const bytes = takeScratch(at + count * SEGMENT_SIZE);
    const { buffer } = bytes;
    bytes.fill(0, (buckets + 1) * 4, at);
    new Uint32Array(buffer, at, count * SEGMENT_WORDS).set(words.subarray(0, count * SEGMENT_WORDS));
    const directory = new Uint32Array(buffer, 0, buckets + 1);
    const scale = 2 ** -shift;
    let filled = 0;
    for (let i = 0; i < count; i++) {
      const bucket = Math.floor(segmentStart(words, i) * scale);
      while (filled <= bucket) directory[filled++] = i;
    }
    directory.fill(count, filled);
    const shared = sharedCopy(bytes);
    dropScratch(bytes);
    return new SegmentIndex({ buffer: shared, count, shift, buckets });
  }

  /** The index that {@link data} described, over the same memory. */
  static from(data: SegmentIndexData): SegmentIndex {
    return new SegmentIndex(data);
  }

  /** What to post to another thread. */
  data(): SegmentIndexData {
    return this.#data;
  }

  /** Number of segments. */
  get length(): number {
    return this.#count;
  }

  /** First sector after the last segment. */
  get end(): number {
    return this.#count === 0 ? 0 : segmentEnd(this.#words, this.#count - 1);
  }

  /** The segments themselves; not to be changed. */
  segments(): Segments {
    return { words: this.#words, count: this.#count };
  }

  /**
   * Number of the first segment that ends after `lba`; `length` if there is none. O(1) expected, O(log n) at worst.
   */
  find(lba: number): number {
    const bucket = Math.floor(lba * this.#scale);
    if (bucket >= this.#buckets) return this.#count;
    const words = this.#words;
    const key = lba >>> 0;
    let low = this.#directory[bucket] ?? 0;
    let high = this.#directory[bucket + 1] ?? 0;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((words[middle * SEGMENT_WORDS] ?? 0) <= key) low = middle + 1;
      else high = middle;
    }
    // `low` starts after lba; the one before it may still cover lba.
    return low > 0 && segmentEnd(words, low - 1) > lba ? low - 1 : low;
  }

  /** Fills `out` with the pieces that make up [lba, lba + sectorCount), in order, without gaps. */
  lookup(lba: number, sectorCount: number, out: SegmentList): void {
    out.length = 0;
    const words = this.#words;
    const count = this.#count;
    const end = lba + sectorCount;
    let at = lba;
    for (let i = this.find(lba); at < end && i < count; i++) {
      const start = segmentStart(words, i);
      if (start >= end) break;
      if (start > at) {
        out.push(at, start - at, 0, HOLE);
        at = start;
      }
      const stop = Math.min(start + segmentLength(words, i), end);
      if (isZeroed(words, i)) out.push(at, stop - at, 0, ZEROED);
      else out.push(at, stop - at, segmentMoffset(words, i) + (at - start), segmentTag(words, i));
      at = stop;
    }
    if (at < end) out.push(at, end - at, 0, HOLE);
  }
}

function segmentsAt(buckets: number): number {
  return Math.ceil(((buckets + 1) * 4) / SEGMENT_SIZE) * SEGMENT_SIZE;
}
