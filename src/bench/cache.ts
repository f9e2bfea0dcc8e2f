import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { localFileOf, localOffset, MemoryBlob } from '../blob/index.js';
import { BlobCache, type CachedBlob } from '../cache/index.js';
import { silentLogger } from '../log/index.js';
import { randoms } from './load.js';
import { percentile, type Row } from './report.js';

/** Where and how much. */
export interface CacheBenchOptions {
  /** A directory of a scratch directory is made here. */
  readonly dir: string;
  /** Bytes of the blob that is cached: whole units. */
  readonly size: number;
  readonly unitSize: number;
  readonly reads: number;
  readonly seed: number;
}

const MIB = 2 ** 20;
const QUESTIONS = 5_000_000;
const OPENINGS = 20;

/** Bytes of any length that cost nothing. */
class PatternBlob extends MemoryBlob {
  constructor(size: number) {
    super(new Uint8Array(4096), 'pattern');
    Object.defineProperty(this, 'size', { value: size });
  }

  override async read(_offset: number, into: Uint8Array): Promise<void> {
    into.fill(0x5a);
  }
}

async function timed(work: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

async function atOnce(readers: number, work: () => Promise<void>): Promise<void> {
  await Promise.all(Array.from({ length: readers }, work));
}

/**
 * The blob cache over a source in memory, so that what is measured is the cache and its disk: filling it from front to
 * back until all is durable, reading what is there, asking as an I/O worker does where 4 KiB are, opening, and
 * reading what is not there, each time in another unit.
 */
export async function cacheTimes(options: CacheBenchOptions): Promise<Row[]> {
  const dir = await mkdtemp(join(options.dir, 'obd-bench-cache-'));
  try {
    const { size, unitSize } = options;
    const cache = await BlobCache.open({ dir, capacity: 4 * size, minFree: 0, unitSize, log: silentLogger });
    try {
      return await measure(cache, options);
    } finally {
      await cache.close();
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function measure(cache: BlobCache, { size, unitSize, reads, seed }: CacheBenchOptions): Promise<Row[]> {
  const rows: Row[] = [];
  const random = randoms(seed);
  const open = (name: string): Promise<CachedBlob> =>
    cache.openBlob({ url: `http://bench/${name}`, size, source: new PatternBlob(size) });

  const filled = await open('fill');
  const fillMs = await timed(async () => {
    const into = new Uint8Array(MIB);
    for (let offset = 0; offset < size; offset += into.length)
      await filled.read(offset, into.subarray(0, Math.min(MIB, size - offset)));
    await cache.flush();
  });
  rows.push({ name: 'fill, until durable', mbPerSecond: size / 1e3 / fillMs });

  for (const readers of [1, 32]) {
    const ms = await timed(() =>
      atOnce(readers, async () => {
        const into = new Uint8Array(4096);
        for (let i = 0; i < reads / readers; i++) await filled.read(random(size / 4096) * 4096, into);
      }),
    );
    rows.push({ name: `hit of 4 KiB, ${readers} at once`, iops: (reads * 1000) / ms });
  }

  const file = localFileOf(filled);
  if (file) {
    let found = 0;
    const start = performance.now();
    for (let i = 0; i < QUESTIONS; i++) if (localOffset(file, random(size / 4096) * 4096, 4096) >= 0) found++;
    const took = performance.now() - start;
    rows.push({ name: 'plan of 4 KiB', bestNs: (took * 1e6) / QUESTIONS, foundShare: found / QUESTIONS });
  }
  await filled.close();

  const openMs = await timed(async () => {
    for (let i = 0; i < OPENINGS; i++) await (await open('fill')).close();
  });
  rows.push({ name: 'open and close', medianMs: openMs / OPENINGS });
  rows.push(await misses(await open('cold'), size, unitSize, random));
  return rows;
}

async function misses(
  cold: CachedBlob,
  size: number,
  unitSize: number,
  random: (n: number) => number,
): Promise<Row> {
  const units = Array.from({ length: size / unitSize }, (_, i) => i);
  for (let i = units.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [units[i], units[j]] = [units[j] ?? 0, units[i] ?? 0];
  }
  const latencies: number[] = [];
  const ms = await timed(() =>
    atOnce(32, async () => {
      const into = new Uint8Array(4096);
      for (let unit = units.pop(); unit !== undefined; unit = units.pop()) {
        const start = performance.now();
        await cold.read(unit * unitSize + random(unitSize - 4096), into);
        latencies.push(performance.now() - start);
      }
    }),
  );
  await cold.close();
  latencies.sort((a, b) => a - b);
  return {
    name: 'miss of 4 KiB, 32 at once',
    iops: (latencies.length * 1000) / ms,
    mbPerSecond: size / 1e3 / ms,
    p50Us: percentile(latencies, 0.5) * 1000,
    p99Us: percentile(latencies, 0.99) * 1000,
  };
}
