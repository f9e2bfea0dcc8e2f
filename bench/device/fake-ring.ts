/**
 * `obd bench ring` on images whose merged index is long: `node dist/bench/device/fake-ring.js [NAME...]`. Each is a synthetic
 * image of 256 MiB with 20,000 random extents on top (support/synthetic-image.ts), in the page cache. One JSON line per
 * measurement, the best of OBD_BENCH_RUNS (default 5); a NAME picks the lines that contain it. OBD_BENCH_DIR is where the
 * images are made.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { coolImage, RingBench, warmImage, type Load, type Measured } from '../../src/bench/index.js';
import { openImage, parseImageConfig } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { syntheticImage, type Packing } from '../support/synthetic-image.js';

const SIZE = 256 << 20;
const EXTENTS = 20_000;
const COMMON = { pattern: 'random', writes: 0, seconds: 1, warmUp: 0.2, seed: 1, cold: false } as const;
const LOADS: Readonly<Record<string, Load>> = {
  '4 KiB random QD1': { ...COMMON, length: 4096, depth: 1 },
  '4 KiB random QD32': { ...COMMON, length: 4096, depth: 32 },
  '4 KiB local QD1': { ...COMMON, length: 4096, depth: 1, pattern: 'local' },
  '4 KiB local QD32': { ...COMMON, length: 4096, depth: 32, pattern: 'local' },
  '64 KiB random QD32': { ...COMMON, length: 65536, depth: 32 },
  '1 MiB sequential QD4': { ...COMMON, length: 1 << 20, depth: 4, pattern: 'sequential' },
  '1 MiB sequential QD1': { ...COMMON, length: 1 << 20, depth: 1, pattern: 'sequential' },
  '4 KiB random QD32 cold': { ...COMMON, length: 4096, depth: 32, cold: true },
};
const IMAGES = [
  ['raw', 4096],
  ['lz4', 4096],
  ['lz4', 32768],
  ['zstd', 4096],
] as const satisfies readonly (readonly [Packing, number])[];
const RUNS = Number(process.env['OBD_BENCH_RUNS'] ?? 5);

const names = process.argv.slice(2);
const wanted = (name: string): boolean => names.length === 0 || names.some((n) => name.includes(n));
const dir = mkdtempSync(join(process.env['OBD_BENCH_DIR'] ?? tmpdir(), 'obd-bench-'));
const ring = new RingBench(silentLogger);
try {
  for (const [packing, blockSize] of IMAGES) {
    const label = packing === 'raw' ? 'raw' : `${packing} ${blockSize >> 10} KiB blocks`;
    const loads = Object.entries(LOADS).filter(([name]) => wanted(`${label}, ${name}`));
    if (loads.length === 0) continue;
    const path = await syntheticImage(dir, packing, { size: SIZE, extents: EXTENTS, blockSize });
    const config = parseImageConfig(await readFile(path, 'utf8'), path, silentLogger);
    const image = await openImage(config, { log: silentLogger });
    try {
      await warmImage(image);
      for (const [name, load] of loads) {
        let best: (Measured & { readonly localShare: number }) | undefined;
        for (let i = 0; i < RUNS; i++) {
          if (load.cold) coolImage(image);
          const next = await ring.run(image, { ...load, seed: load.seed + i });
          if (best === undefined || next.operations / next.seconds > best.operations / best.seconds)
            best = next;
        }
        if (best === undefined) throw new RangeError('OBD_BENCH_RUNS is below 1');
        const { operations, seconds, p50, p99, p999, cpu, localShare } = best;
        if (localShare < 1) throw new Error(`${label}, ${name}: ${localShare} of the reads were planned`);
        const result = {
          image: label,
          load: name,
          iops: Math.round(operations / seconds),
          MBps: Math.round((operations * load.length) / seconds / 1e6),
          // Of each command, without the thread that plays the kernel.
          cpuUs: Math.round((cpu * seconds * 1e8) / operations) / 100,
          p50us: p50,
          p99us: p99,
          p999us: p999,
        };
        process.stdout.write(`${JSON.stringify(result)}\n`);
      }
    } finally {
      await image.close();
    }
  }
} finally {
  await ring.close();
  rmSync(dir, { recursive: true });
}
