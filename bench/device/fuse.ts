/**
 * A FUSE device under fio, as a user meets it: `node dist/bench/device/fuse.js`, as root. The service runs in a process of its
 * own and serves a synthetic image of 256 MiB in the page cache; fio reads /dev/loopN with direct I/O. For comparison, a
 * loop device of the kernel on a plain file of that size. One JSON line per measurement; OBD_BENCH_OUT=FILE takes all.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { packageRoot } from '../../src/native/index.js';
import { syntheticImage, type Packing } from '../support/synthetic-image.js';

const run = promisify(execFile);
const SIZE = 256 << 20;
const SECONDS = 5;
const LOADS = [
  { name: '4 KiB random QD1', rw: 'randread', bs: '4k', depth: 1 },
  { name: '4 KiB random QD32', rw: 'randread', bs: '4k', depth: 32 },
  { name: '128 KiB sequential QD1', rw: 'read', bs: '128k', depth: 1 },
  { name: '1 MiB sequential QD4', rw: 'read', bs: '1m', depth: 4 },
] as const;

interface FioReport {
  readonly jobs: readonly {
    readonly read: {
      readonly iops: number;
      readonly bw_bytes: number;
      readonly clat_ns: { readonly mean: number; readonly percentile: Readonly<Record<string, number>> };
    };
  }[];
}

const dir = mkdtempSync(join(process.env['OBD_BENCH_DIR'] ?? tmpdir(), 'obd-bench-'));
const results: object[] = [];

async function measure(label: string, device: string): Promise<void> {
  for (const { name, rw, bs, depth } of LOADS) {
    const { stdout } = await run('fio', [
      ...[
        '--name=x',
        `--filename=${device}`,
        '--readonly',
        '--direct=1',
        '--ioengine=libaio',
        '--time_based',
      ],
      ...[`--rw=${rw}`, `--bs=${bs}`, `--iodepth=${depth}`, `--size=${SIZE}`, `--runtime=${SECONDS}`],
      ...['--ramp_time=1', '--randseed=1', '--output-format=json'],
    ]);
    const read = (JSON.parse(stdout) as FioReport).jobs[0]?.read;
    if (read === undefined) throw new Error(`fio measured nothing: ${stdout}`);
    const result = {
      name: `${label}, ${name}`,
      iops: Math.round(read.iops),
      mibPerSecond: Math.round(read.bw_bytes / 2 ** 20),
      meanMicroseconds: Math.round(read.clat_ns.mean / 100) / 10,
      p99Microseconds: Math.round((read.clat_ns.percentile['99.000000'] ?? 0) / 100) / 10,
    };
    results.push(result);
    process.stdout.write(`${JSON.stringify(result)}\n`);
  }
}

try {
  const service = join(dir, 'overlaybd.json');
  writeFileSync(
    service,
    JSON.stringify({ apiSocket: join(dir, 'run', 'o.sock'), logConfig: { logPath: join(dir, 'log') } }),
  );
  const obd = (...args: string[]) =>
    run(process.execPath, [
      join(packageRoot, 'bin', 'obd'),
      ...args,
      '--service-config',
      service,
      '--state-dir',
      join(dir, 'state'),
    ]);
  for (const [packing, blockSize] of [
    ['raw', 4096],
    ['lz4', 4096],
    ['zstd', 4096],
  ] as const satisfies readonly (readonly [Packing, number])[]) {
    const path = await syntheticImage(dir, packing, { size: SIZE, extents: 20_000, blockSize });
    const device = (await obd('attach', path, '--transport', 'fuse', '--name', packing)).stdout.trim();
    try {
      await measure(`FUSE, ${packing}`, device);
    } finally {
      await obd('detach', packing);
    }
  }
  const plain = join(dir, 'plain');
  await run('dd', ['if=/dev/urandom', `of=${plain}`, 'bs=1M', `count=${SIZE >> 20}`]);
  const loop = (await run('losetup', ['-f', '--show', '-r', '--direct-io=off', plain])).stdout.trim();
  try {
    await measure('loop on a file in the page cache', loop);
  } finally {
    await run('losetup', ['-d', loop]);
  }
  const out = process.env['OBD_BENCH_OUT'];
  if (out !== undefined) {
    const commit = (await run('git', ['-C', packageRoot, 'rev-parse', '--short', 'HEAD'])).stdout.trim();
    const machine = {
      cpu: cpus()[0]?.model,
      cpus: cpus().length,
      kernel: release(),
      loadAverage: readFileSync('/proc/loadavg', 'utf8').split(' ')[0],
    };
    writeFileSync(
      out,
      `${JSON.stringify({ commit, node: process.version, ...machine, results }, undefined, 1)}\n`,
    );
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
