import { SECTOR, type ReadableBlob, type WritableBlob } from '../blob/index.js';
import { inOrder, placesOf, randoms, windowOf, WINDOW_ACCESSES, type Load, type Measured } from './load.js';
import { percentile } from './report.js';

/** Latencies kept: the last million. */
const SAMPLES = 1 << 20;

/** A disk of this process. */
export type Stack = ReadableBlob | WritableBlob;

/**
 * A load through the general way, `read()` and `write()`: what tools, and devices that miss, use. The processor time
 * includes that of the benchmark's own loop, a microsecond or so each.
 * @throws whatever the disk throws.
 */
export async function stackLoad(stack: Stack, load: Load): Promise<Measured> {
  const places = placesOf(stack, stack.size - (stack.size % SECTOR), load);
  if (load.warmUp > 0 && !load.cold) await run(stack, places, load, load.warmUp, load.seed + 1);
  return run(stack, places, load, load.seconds, load.seed);
}

async function run(
  stack: Stack,
  places: Float64Array,
  load: Load,
  seconds: number,
  seed: number,
): Promise<Measured> {
  const random = randoms(seed);
  const ordered = inOrder(load);
  // As load_places_next in native/load_meter.c.
  const window = windowOf(load) === 0 ? places.length : Math.floor(windowOf(load) / load.length) + 1;
  let first = 0;
  const pick = (number: number): number => {
    if (ordered) return number % places.length;
    if (number % WINDOW_ACCESSES === 0) first = random(places.length);
    return (first + random(window)) % places.length;
  };
  const limit = load.cold ? places.length : Infinity;
  const samples = new Float64Array(SAMPLES);
  let started = 0;
  let finished = 0;
  const cpu = process.cpuUsage();
  const start = performance.now();
  const end = start + seconds * 1000;
  let turns = 0;
  const lane = async (): Promise<void> => {
    const buffer = Buffer.alloc(load.length, 0x5a);
    for (let before = start; before < end && started < limit;) {
      const place = places[pick(started++)] ?? 0;
      if (load.writes > 0 && random(100) < load.writes && 'write' in stack) await stack.write(place, buffer);
      else await stack.read(place, buffer);
      const now = performance.now();
      samples[finished++ % SAMPLES] = now - before;
      before = now;
      // Reads that never wait would keep everybody else waiting.
      if (++turns % 1024 === 0) {
        await new Promise((resolve) => setImmediate(resolve));
        before = performance.now();
      }
    }
  };
  await Promise.all(Array.from({ length: load.depth }, lane));
  const took = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const sorted = samples.subarray(0, Math.min(finished, SAMPLES)).sort();
  return {
    operations: finished,
    seconds: took,
    p50: percentile(sorted, 0.5) * 1000,
    p99: percentile(sorted, 0.99) * 1000,
    p999: percentile(sorted, 0.999) * 1000,
    cpu: (user + system) / 1e6 / took,
  };
}
