/**
 * The blob cache: `node dist/bench/micro/cache.js [DIRECTORY]`. Prints one JSON line per measurement. The source is
 * memory, so that what is measured is the cache and the disk (by default that of the system's temporary directory).
 *
 *   hit        4 KiB reads of present units, by one reader and by 32 at once; per read
 *   plan       the question an I/O worker asks about 4 KiB; per question
 *   miss       4 KiB reads, each of another 256 KiB unit, 32 at once; fetched bytes per second
 *   fill       1 MiB reads from front to back until all is present and durable; bytes per second
 *   open       open and close a blob of 4096 units, all present
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { localFileOf, localOffset, MemoryBlob } from '../../src/blob/index.js';
import { BlobCache, type CachedBlob } from '../../src/cache/index.js';
import { silentLogger } from '../../src/log/index.js';

const UNIT = 256 << 10;
const SIZE = 1 << 30;
const dir = mkdtempSync(join(process.argv[2] ?? tmpdir(), 'obd-bench-cache-'));

/** Cheap bytes of any length. */
class PatternBlob extends MemoryBlob {
  constructor() {
    super(new Uint8Array(UNIT).fill(0x5a), 'pattern');
    Object.defineProperty(this, 'size', { value: SIZE });
  }

  override async read(_offset: number, into: Uint8Array): Promise<void> {
    into.fill(0x5a);
  }
}

let state = 1;
function random(below: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
}

function report(name: string, fields: Record<string, number>): void {
  process.stdout.write(JSON.stringify({ name, ...fields, node: process.version }) + '\n');
}

async function timed(work: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

async function atOnce(readers: number, work: () => Promise<void>): Promise<void> {
  await Promise.all(Array.from({ length: readers }, work));
}

const cache = await BlobCache.open({
  dir,
  capacity: 4 * SIZE,
  minFree: 0,
  unitSize: UNIT,
  log: silentLogger,
});
const open = (name: string): Promise<CachedBlob> =>
  cache.openBlob({ url: `http://bench/${name}`, size: SIZE, source: new PatternBlob() });

const filled = await open('fill');
const fillMs = await timed(async () => {
  const into = new Uint8Array(1 << 20);
  for (let offset = 0; offset < SIZE; offset += into.length) await filled.read(offset, into);
  await cache.flush();
});
report('fill', { mibPerS: Math.round(SIZE / 2 ** 20 / (fillMs / 1000)) });

const READS = 40_000;
for (const readers of [1, 32]) {
  const ms = await timed(() =>
    atOnce(readers, async () => {
      const into = new Uint8Array(4096);
      for (let i = 0; i < READS / readers; i++) await filled.read(random(SIZE / 4096) * 4096, into);
    }),
  );
  report(`hit, ${readers} at once`, { usPerRead: (ms * 1000) / READS, kReadsPerS: READS / ms });
}

const file = localFileOf(filled);
if (file) {
  let found = 0;
  const start = performance.now();
  for (let i = 0; i < 5_000_000; i++) if (localOffset(file, random(SIZE / 4096) * 4096, 4096) >= 0) found++;
  report('plan', { nsPerQuestion: ((performance.now() - start) * 1e6) / 5_000_000, found });
}
await filled.close();

const openMs = await timed(async () => {
  for (let i = 0; i < 20; i++) await (await open('fill')).close();
});
report('open and close', { ms: openMs / 20 });

const cold = await open('cold');
const units = Array.from({ length: SIZE / UNIT }, (_, i) => i);
for (let i = units.length - 1; i > 0; i--) {
  const j = random(i + 1);
  [units[i], units[j]] = [units[j] ?? 0, units[i] ?? 0];
}
const latencies: number[] = [];
const missMs = await timed(() =>
  atOnce(32, async () => {
    const into = new Uint8Array(4096);
    for (let unit = units.pop(); unit !== undefined; unit = units.pop()) {
      const start = performance.now();
      await cold.read(unit * UNIT + random(UNIT - 4096), into);
      latencies.push(performance.now() - start);
    }
  }),
);
latencies.sort((a, b) => a - b);
report('miss, 32 at once', {
  mibPerS: Math.round(SIZE / 2 ** 20 / (missMs / 1000)),
  medianMs: latencies[latencies.length >> 1] ?? 0,
  p99Ms: latencies[Math.floor(latencies.length * 0.99)] ?? 0,
});
await cold.close();
await cache.close();
rmSync(dir, { recursive: true });
