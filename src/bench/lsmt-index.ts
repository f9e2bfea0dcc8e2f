import {
  mergeSegments,
  SegmentIndex,
  SegmentList,
  SegmentMap,
  setSegment,
  type Segments,
} from '../lsmt/index.js';
import { randoms } from './load.js';
import { percentile, type Row } from './report.js';

/** What is merged and looked up. */
export interface IndexBenchOptions {
  readonly layers: number;
  /** Of each layer, at random places. */
  readonly extents: number;
  /** Sizes of the indexes in which something is looked up. */
  readonly lookupIn: readonly number[];
  readonly seed: number;
  /** Merges and passes over the lookups; the best counts. */
  readonly runs: number;
}

/** Lookups of one pass. */
const LOOKUPS = 1 << 20;
const WRITES = 500_000;

/** Merging the indexes of layers, looking up 4 KiB, and writing 4 KiB into the map of a writable layer. */
export function indexTimes({ layers, extents, lookupIn, seed, runs }: IndexBenchOptions): Row[] {
  const random = randoms(seed);
  const rows: Row[] = [mergeTime(layers, extents, runs, random)];
  for (const count of lookupIn) rows.push(lookupTime(count, runs, random));
  rows.push(mapTime(random));
  return rows;
}

function mergeTime(layers: number, extents: number, runs: number, random: (n: number) => number): Row {
  const indexes = Array.from({ length: layers }, (_, tag) => layer(extents, 2 ** 24, tag, random));
  const times: number[] = [];
  let entries = 0;
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    const merged = mergeSegments(indexes);
    SegmentIndex.build(merged);
    times.push(performance.now() - start);
    entries = merged.count;
  }
  times.sort((a, b) => a - b);
  return {
    name: `merge and index ${layers} layers of ${extents} extents`,
    entries,
    bestMs: times[0] ?? 0,
    medianMs: percentile(times, 0.5),
  };
}

function lookupTime(count: number, runs: number, random: (n: number) => number): Row {
  const index = SegmentIndex.build(layer(count, count * 100, 0, random));
  const list = new SegmentList();
  const addresses = Float64Array.from({ length: LOOKUPS }, () => random((count * 100) / 8) * 8);
  let pieces = 0;
  let best = Infinity;
  for (let round = 0; round < runs; round++) {
    const start = performance.now();
    for (const lba of addresses) {
      index.lookup(lba, 8, list);
      pieces += list.length;
    }
    best = Math.min(best, performance.now() - start);
  }
  return {
    name: `look up 4 KiB among ${index.length} segments`,
    entries: index.length,
    bestNs: (best * 1e6) / LOOKUPS,
    millionPerSecond: LOOKUPS / best / 1000,
    piecesEach: pieces / LOOKUPS / runs,
  };
}

function mapTime(random: (n: number) => number): Row {
  const map = new SegmentMap(true);
  const start = performance.now();
  for (let i = 0; i < WRITES; i++) {
    const at = random(2 ** 20) * 8;
    map.setData(at, 8, at);
  }
  const took = performance.now() - start;
  return {
    name: `map ${WRITES} random writes of 4 KiB`,
    entries: map.length,
    bestNs: (took * 1e6) / WRITES,
    millionPerSecond: WRITES / took / 1000,
  };
}

/** Sorted, disjoint extents of 1 to 64 sectors over `sectors`, every tenth of zeroes. */
function layer(count: number, sectors: number, tag: number, random: (n: number) => number): Segments {
  const starts = Float64Array.from({ length: count }, () => random(sectors)).sort();
  const words = new Uint32Array(count * 4);
  let n = 0;
  let end = 0;
  for (const [i, start] of starts.entries()) {
    const from = Math.max(start, end);
    const room = (starts[i + 1] ?? sectors) - from;
    const length = Math.min(1 + random(64), room);
    if (length <= 0) continue;
    setSegment(words, n++, from, length, 8 + from, random(10) === 0, tag);
    end = from + length;
  }
  return { words, count: n };
}
