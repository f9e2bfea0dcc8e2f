/**
 * Merge and lookup: `node dist/bench/micro/lsmt-index.js`. Prints one JSON line per measurement.
 *
 *   merge    16 layers of 20,000 random extents each; best and median of 15 after warm-up
 *   lookup   4 KiB at random addresses of an index of 100,000 (and 1,000,000) segments
 */
import { performance } from 'node:perf_hooks';
import {
  mergeSegments,
  SegmentIndex,
  SegmentList,
  SegmentMap,
  setSegment,
  type Segments,
} from '../../src/lsmt/index.js';

let state = 1;
function random(below: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
}

/** Sorted, disjoint extents of 1 to 64 sectors over `sectors`. */
function layer(count: number, sectors: number, tag: number): Segments {
  const starts = Array.from({ length: count }, () => random(sectors)).sort((a, b) => a - b);
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

function report(name: string, fields: Record<string, number>): void {
  process.stdout.write(JSON.stringify({ name, ...fields, node: process.version }) + '\n');
}

const layers = Array.from({ length: 16 }, (_, tag) => layer(20_000, 2 ** 24, tag));
const times: number[] = [];
let entries = 0;
for (let i = 0; i < 20; i++) {
  const start = performance.now();
  const merged = mergeSegments(layers);
  SegmentIndex.build(merged);
  if (i >= 5) times.push(performance.now() - start);
  entries = merged.count;
}
times.sort((a, b) => a - b);
report('merge 16 x 20000 and index', {
  entries,
  bestMs: times[0] ?? 0,
  medianMs: times[times.length >> 1] ?? 0,
});

for (const count of [100_000, 1_000_000]) {
  const index = SegmentIndex.build(layer(count, count * 100, 0));
  const list = new SegmentList();
  const addresses = Float64Array.from({ length: 1 << 20 }, () => random((count * 100) / 8) * 8);
  let pieces = 0;
  let best = Infinity;
  for (let round = 0; round < 6; round++) {
    const start = performance.now();
    for (const lba of addresses) {
      index.lookup(lba, 8, list);
      pieces += list.length;
    }
    best = Math.min(best, performance.now() - start);
  }
  report(`lookup of 4 KiB among ${index.length} segments`, {
    nsPerLookup: (best * 1e6) / addresses.length,
    millionPerSecond: addresses.length / best / 1000,
    piecesPerLookup: pieces / addresses.length / 6,
  });
}

const map = new SegmentMap(true);
const start = performance.now();
for (let i = 0; i < 500_000; i++) {
  const at = random(2 ** 20) * 8;
  map.setData(at, 8, at);
}
report('random 4 KiB writes into a map', {
  nsPerWrite: ((performance.now() - start) * 1e6) / 500_000,
  runs: map.length,
});
