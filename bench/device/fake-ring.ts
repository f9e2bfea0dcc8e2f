/**
 * The whole data path below SCSI without a kernel: `node dist/bench/device/fake-ring.js [NAME...]`. A C thread drives a
 * TCMU ring (native/fake_ring.h) that an I/O worker serves from a synthetic image of 256 MiB in the page cache. One JSON
 * line per measurement; with OBD_BENCH_OUT=FILE all of them as one document. A NAME picks the lines that contain it.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockDevice, IoWorkers } from '../../src/blockdev/index.js';
import { openImage, parseImageConfig, plannerModule } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { FakeRing, type FakeRingResult } from '../../src/native/index.js';
import { syntheticImage, type Packing } from '../support/synthetic-image.js';

const SIZE = 256 << 20;
const EXTENTS = 20_000;
/** `cold`: the page cache is emptied of the image before each run. `window`: see FakeRingLoad. */
const LOADS = [
  { name: '4 KiB random QD1', length: 4096, depth: 1, operations: 40_000 },
  { name: '4 KiB random QD32', length: 4096, depth: 32, operations: 300_000 },
  { name: '4 KiB local QD1', length: 4096, depth: 1, operations: 40_000, window: 8 << 20 },
  { name: '4 KiB local QD32', length: 4096, depth: 32, operations: 100_000, window: 8 << 20 },
  { name: '64 KiB random QD32', length: 65536, depth: 32, operations: 20_000 },
  { name: '1 MiB sequential QD4', length: 1 << 20, depth: 4, operations: 1500, sequential: true },
  { name: '1 MiB sequential QD1', length: 1 << 20, depth: 1, operations: 500, sequential: true },
  { name: '4 KiB random QD32 cold', length: 4096, depth: 32, operations: 20_000, cold: true },
];

/** The best of so many counts: other work on the machine only ever takes away. */
const RUNS = Number(process.env['OBD_BENCH_RUNS'] ?? 5);

const names = process.argv.slice(2);
const dir = mkdtempSync(join(process.env['OBD_BENCH_DIR'] ?? tmpdir(), 'obd-bench-'));
const workers = new IoWorkers({ logger: silentLogger, count: 1, plannerModule });
const results: object[] = [];
try {
  for (const [packing, blockSize] of [
    ['raw', 4096],
    ['lz4', 4096],
    ['lz4', 32768],
    ['zstd', 4096],
  ] as const satisfies readonly (readonly [Packing, number])[]) {
    const label = packing === 'raw' ? 'raw' : `${packing} ${blockSize >> 10} KiB blocks`;
    if (!LOADS.some((load) => wanted(`${label}, ${load.name}`))) continue;
    const path = await syntheticImage(dir, packing, { size: SIZE, extents: EXTENTS, blockSize });
    const config = parseImageConfig(await readFile(path, 'utf8'), path, silentLogger);
    const image = await openImage(config, { log: silentLogger });
    const device = new BlockDevice(image.blob, { planner: image.planner });
    const files = config.lowers.map(({ file }) => file);
    for (const { name, cold = false, ...load } of LOADS) {
      if (!wanted(`${label}, ${name}`)) continue;
      const ring = new FakeRing({
        ringSize: 8 << 20,
        dataBlocks: 16384,
        deviceSize: SIZE,
        readOnly: true,
        verifyFd: -1,
      });
      const served = await workers.serve(ring.handle, device);
      const run = { sequential: false, ...load, writes: 0, scatter: false };
      if (!cold) await ring.run({ ...run, seed: 1, operations: Math.ceil(load.operations / 5) }); // warm up
      let r: (FakeRingResult & { cpuUs: number }) | undefined;
      for (let again = 0; again < RUNS; again++) {
        if (cold) forget(files);
        const before = process.cpuUsage();
        const next = await ring.run({ ...run, seed: 2 + again });
        const { user, system } = process.cpuUsage(before);
        if (r === undefined || next.seconds < r.seconds || next.error !== 0 || next.failed > 0)
          r = { ...next, cpuUs: (user + system) / next.operations };
      }
      if (r === undefined) throw new RangeError('OBD_BENCH_RUNS is below 1');
      await served.remove();
      ring.close();
      if (r.error !== 0 || r.failed > 0 || served.counters.localReads !== served.counters.reads)
        throw new Error(`${label}, ${name}: ${JSON.stringify({ ...r, ...served.counters })}`);
      const result = {
        image: label,
        load: name,
        iops: Math.round(r.operations / r.seconds),
        MBps: Math.round((r.operations * load.length) / r.seconds / 1e6),
        // Of this whole process, the fake kernel's part included: says more than the rate when others work too.
        cpuUs: Math.round(r.cpuUs * 100) / 100,
        p50us: r.p50,
        p99us: r.p99,
        p999us: r.p999,
      };
      results.push(result);
      process.stdout.write(JSON.stringify(result) + '\n');
    }
    await device.close();
    await image.close();
  }
} finally {
  await workers.close();
  rmSync(dir, { recursive: true });
}
const out = process.env['OBD_BENCH_OUT'];
if (out !== undefined)
  writeFileSync(
    out,
    JSON.stringify(
      {
        what: 'fake TCMU ring, one I/O worker, page cache warm',
        date: new Date().toISOString(),
        commit: execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim(),
        node: process.version,
        cpu: cpus()[0]?.model,
        cpus: cpus().length,
        // Above the number of processors, others were working too, and the medians say more than the rates.
        loadAverage: Math.round((loadavg()[0] ?? 0) * 10) / 10,
        results,
      },
      null,
      1,
    ) + '\n',
  );

/** Has the kernel write the files' bytes to the disk and drop them from the page cache. */
function forget(files: readonly string[]): void {
  execFileSync('sync', files);
  for (const file of files) execFileSync('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']);
}

function wanted(name: string): boolean {
  return names.length === 0 || names.some((n) => name.includes(n));
}
