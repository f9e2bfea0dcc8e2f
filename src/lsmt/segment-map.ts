/**
 * The mapping of a writable layer: sorted, disjoint runs that later writes cut, shorten and replace.
 *
 * Runs live in leaves of at most {@link LEAF_SIZE}, found by the first sector of each leaf: two binary searches and
 * a short move of memory per write. A run may be longer than a segment can be; `segments()` cuts.
 *
 * Two policies. A log keeps every write a run of its own, as the reference does (the seams show in what is sealed or
 * committed). A layer whose data lies at a fixed place per sector joins neighbours: its runs depend only on what is
 * written, not on the order.
 */

import {
  isZeroed,
  MAX_SEGMENT_SECTORS,
  segmentLength,
  segmentMoffset,
  segmentStart,
  SEGMENT_WORDS,
  setSegment,
  type Segments,
} from './segment.js';
import { Page, type PageTable } from './page-table.js';
import { HOLE, ZEROED, type SegmentList } from './segment-index.js';

const LEAF_SIZE = 256;
/** Stands for the moffset of a run that reads as zeroes. */
const ZERO = -1;

class Leaf {
  readonly start = new Float64Array(LEAF_SIZE);
  readonly end = new Float64Array(LEAF_SIZE);
  readonly moffset = new Float64Array(LEAF_SIZE);
  count = 0;

  /** Replaces runs [from, to) by `runs`. The caller has made sure that they fit. */
  splice(from: number, to: number, runs: readonly Run[]): void {
    const shift = runs.length - (to - from);
    if (shift !== 0)
      for (const column of [this.start, this.end, this.moffset])
        column.copyWithin(to + shift, to, this.count);
    runs.forEach((run, i) => {
      this.start[from + i] = run.start;
      this.end[from + i] = run.end;
      this.moffset[from + i] = run.moffset;
    });
    this.count += shift;
  }
}

interface Run {
  readonly start: number;
  readonly end: number;
  readonly moffset: number;
}

/** Mutable, ordered mapping of one file. Sectors everywhere. */
export class SegmentMap {
  readonly #join: boolean;
  #leaves: Leaf[] = [new Leaf()];
  #count = 0;
  #dataSectors = 0;
  #table: PageTable | undefined;

  /** @param join whether runs that continue each other become one. */
  constructor(join: boolean) {
    this.#join = join;
  }

  /** Number of runs. */
  get length(): number {
    return this.#count;
  }

  /** Sectors mapped to data. */
  get dataSectors(): number {
    return this.#dataSectors;
  }

  /** First sector at or after `lba` that is mapped; Infinity if none is. */
  nextMapped(lba: number): number {
    const [l, i] = this.#find(lba);
    const leaf = this.#leaves[l];
    const start = leaf !== undefined && i < leaf.count ? leaf.start[i] : this.#leaves[l + 1]?.start[0];
    return start === undefined ? Infinity : Math.max(start, lba);
  }

  /** First sector after the last run. */
  get end(): number {
    const leaf = this.#leaves.at(-1);
    return leaf === undefined || leaf.count === 0 ? 0 : (leaf.end[leaf.count - 1] ?? 0);
  }

  /** Maps [start, start + length) to data at `moffset`, over whatever was there. */
  setData(start: number, length: number, moffset: number): void {
    this.#replace(start, start + length, { start, end: start + length, moffset });
  }

  /** Maps [start, start + length) to zeroes, over whatever was there. */
  setZeroed(start: number, length: number): void {
    this.#replace(start, start + length, { start, end: start + length, moffset: ZERO });
  }

  /** Forgets [start, start + length): lower layers show through. */
  clear(start: number, length: number): void {
    this.#replace(start, start + length, undefined);
  }

  /** Fills `out` with the pieces that make up [lba, lba + sectorCount); data has tag 0. */
  lookup(lba: number, sectorCount: number, out: SegmentList): void {
    out.length = 0;
    const end = lba + sectorCount;
    let at = lba;
    let [l, i] = this.#find(lba);
    for (; at < end; i++) {
      let leaf = this.#leaves[l];
      if (leaf !== undefined && i >= leaf.count) {
        leaf = this.#leaves[++l];
        i = 0;
      }
      if (leaf === undefined || i >= leaf.count) break;
      const start = leaf.start[i] ?? 0;
      if (start >= end) break;
      if (start > at) {
        out.push(at, start - at, 0, HOLE);
        at = start;
      }
      const stop = Math.min(leaf.end[i] ?? 0, end);
      const moffset = leaf.moffset[i] ?? 0;
      if (moffset === ZERO) out.push(at, stop - at, 0, ZEROED);
      else out.push(at, stop - at, moffset + (at - start), 0);
      at = stop;
    }
    if (at < end) out.push(at, end - at, 0, HOLE);
  }

  /**
   * A copy as segments, sorted, cut to what a segment can hold. Zeroed ones have moffset `zeroMoffset`.
   * @param maxSectors longest segment; smaller only in tests.
   */
  segments(zeroMoffset = 0, maxSectors = MAX_SEGMENT_SECTORS): Segments {
    let count = 0;
    for (const run of this.#runs()) count += Math.ceil((run.end - run.start) / maxSectors);
    const words = new Uint32Array(count * SEGMENT_WORDS);
    let n = 0;
    for (const { start, end, moffset } of this.#runs())
      for (let at = start; at < end; at += maxSectors) {
        const zeroed = moffset === ZERO;
        const where = zeroed ? zeroMoffset : moffset + (at - start);
        setSegment(words, n++, at, Math.min(maxSectors, end - at), where, zeroed, 0);
      }
    return { words, count };
  }

  /** Puts segments over what is there, in their order; their tags are ignored. */
  apply(segments: Segments): void {
    const { words, count } = segments;
    for (let i = 0; i < count; i++)
      if (isZeroed(words, i)) this.setZeroed(segmentStart(words, i), segmentLength(words, i));
      else this.setData(segmentStart(words, i), segmentLength(words, i), segmentMoffset(words, i));
  }

  /** Keeps a table in step with this map from now on; it must be empty. One at a time. */
  showIn(table: PageTable): void {
    for (const { start, end, moffset } of this.#runs())
      table.set(start, end, moffset === ZERO ? Page.ZEROES : moffset);
    this.#table = table;
  }

  *#runs(): Generator<Run> {
    for (const leaf of this.#leaves)
      for (let i = 0; i < leaf.count; i++)
        yield { start: leaf.start[i] ?? 0, end: leaf.end[i] ?? 0, moffset: leaf.moffset[i] ?? 0 };
  }

  /** Leaf and place of the first run that ends after `lba`; may be one past the leaf's end. */
  #find(lba: number): [leaf: number, i: number] {
    let low = 0;
    let high = this.#leaves.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#leaves[middle]?.start[0] ?? 0) <= lba) low = middle + 1;
      else high = middle;
    }
    const l = Math.max(low - 1, 0);
    const leaf = this.#leaves[l];
    let from = 0;
    let to = leaf?.count ?? 0;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if ((leaf?.end[middle] ?? 0) <= lba) from = middle + 1;
      else to = middle;
    }
    return [l, from];
  }

  #replace(start: number, end: number, run: Run | undefined): void {
    if (start >= end) return;
    const [firstLeaf, from] = this.#find(start);
    let l = firstLeaf;
    let i = from;
    const runs: Run[] = [];
    let tail: Run | undefined;
    // Walk over everything that begins before `end`.
    for (;;) {
      let leaf = this.#leaves[l];
      while (leaf !== undefined && i >= leaf.count && l + 1 < this.#leaves.length) {
        leaf = this.#leaves[++l];
        i = 0;
      }
      if (leaf === undefined || i >= leaf.count) break;
      const s = leaf.start[i] ?? 0;
      if (s >= end) break;
      const e = leaf.end[i] ?? 0;
      const m = leaf.moffset[i] ?? 0;
      if (m !== ZERO) this.#dataSectors -= Math.min(e, end) - Math.max(s, start);
      if (s < start) runs.push({ start: s, end: start, moffset: m });
      if (e > end) tail = { start: end, end: e, moffset: m === ZERO ? ZERO : m + (end - s) };
      i++;
    }
    let a = firstLeaf;
    let first = from;
    if (this.#join && first === 0 && a > 0) {
      // The run before, which this one may continue, is in the leaf before.
      a--;
      first = this.#leaves[a]?.count ?? 0;
    }
    if (run !== undefined) {
      if (run.moffset !== ZERO) this.#dataSectors += end - start;
      runs.push(run);
    }
    if (tail !== undefined) runs.push(tail);
    this.#spliceAcross(a, first, l, i, this.#join ? joined(runs) : runs);
    const place = run === undefined ? Page.BELOW : run.moffset === ZERO ? Page.ZEROES : run.moffset;
    this.#table?.set(start, end, place);
  }

  /** Replaces everything from run `from` of leaf `a` up to run `to` of leaf `b`. */
  #spliceAcross(a: number, from: number, b: number, to: number, runs: Run[]): void {
    const first = this.#leaves[a];
    const last = this.#leaves[b];
    if (first === undefined || last === undefined) return;
    if (this.#join && runs.length > 0) [from, to] = this.#joinNeighbours(first, from, last, to, runs);
    let removed: number;
    if (a === b) removed = to - from;
    else {
      removed = first.count - from + to;
      for (let l = a + 1; l < b; l++) removed += this.#leaves[l]?.count ?? 0;
      last.splice(0, to, []);
      first.splice(from, first.count, []);
      this.#leaves.splice(a + 1, b - a - 1 + (last.count === 0 ? 1 : 0));
      to = from;
    }
    this.#count += runs.length - removed;
    if (first.count + runs.length - (to - from) > LEAF_SIZE) this.#split(a, from, to, runs);
    else first.splice(from, to, runs);
    if (first.count === 0 && this.#leaves.length > 1) this.#leaves.splice(a, 1);
  }

  /** Lets the run before and the run after, if `runs` continues them, be replaced with it. */
  #joinNeighbours(first: Leaf, from: number, last: Leaf, to: number, runs: Run[]): [number, number] {
    if (from > 0) {
      const before = runAt(first, from - 1);
      const head = runs[0];
      if (head !== undefined && continues(before, head)) {
        runs[0] = { ...before, end: head.end };
        from--;
      }
    }
    if (to < last.count) {
      const after = runAt(last, to);
      const tail = runs.at(-1);
      if (tail !== undefined && continues(tail, after)) {
        runs[runs.length - 1] = { ...tail, end: after.end };
        to++;
      }
    }
    return [from, to];
  }

  #split(l: number, from: number, to: number, runs: readonly Run[]): void {
    const leaf = this.#leaves[l];
    if (leaf === undefined) return;
    const all: Run[] = [];
    for (let i = 0; i < from; i++) all.push(runAt(leaf, i));
    all.push(...runs);
    for (let i = to; i < leaf.count; i++) all.push(runAt(leaf, i));
    // Appending at the end is the common case: leave the old leaf nearly full.
    const cut = to === leaf.count ? Math.min(from, LEAF_SIZE - 8) : all.length >>> 1;
    const next = new Leaf();
    next.splice(0, 0, all.slice(cut));
    leaf.count = 0;
    leaf.splice(0, 0, all.slice(0, cut));
    this.#leaves.splice(l + 1, 0, next);
  }
}

function runAt(leaf: Leaf, i: number): Run {
  return { start: leaf.start[i] ?? 0, end: leaf.end[i] ?? 0, moffset: leaf.moffset[i] ?? 0 };
}

function continues(a: Run, b: Run): boolean {
  if (a.end !== b.start) return false;
  if (a.moffset === ZERO || b.moffset === ZERO) return a.moffset === b.moffset;
  return a.moffset + (a.end - a.start) === b.moffset;
}

function joined(runs: readonly Run[]): Run[] {
  const out: Run[] = [];
  for (const run of runs) {
    const last = out.at(-1);
    if (last !== undefined && continues(last, run)) out[out.length - 1] = { ...last, end: run.end };
    else out.push(run);
  }
  return out;
}
