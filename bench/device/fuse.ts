/**
 * FUSE devices as a user meets them: `node dist/bench/device/fuse.js [SECONDS [RUNS]]`, as root, prints reports as JSON. The
 * service runs in a process of its own and serves the images of bench/images; /dev/loopN is read with direct I/O where the
 * image has data. For comparison, a loop device of the kernel on a plain file in the page cache.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Report } from '../../src/bench/index.js';
import { packageRoot } from '../../src/native/index.js';

const exec = promisify(execFile);
const [seconds = '3', runs = '3'] = process.argv.slice(2);
const LOADS = [
  ['--bs', '4k', '--depth', '1,32'],
  ['--bs', '1M', '--depth', '4', '--pattern', 'sequential'],
] as const;

const dir = mkdtempSync(join(tmpdir(), 'obd-bench-'));
const config = join(dir, 'overlaybd.json');
writeFileSync(
  config,
  JSON.stringify({ apiSocket: join(dir, 'run', 'o.sock'), logConfig: { logPath: join(dir, 'log') } }),
);
const service = ['--service-config', config];

async function obd(...args: string[]): Promise<string> {
  return (await exec(process.execPath, [join(packageRoot, 'bin', 'obd'), ...args])).stdout.trim();
}

async function measure(subject: string, device: string, ...options: string[]): Promise<Report> {
  const reports: Report[] = [];
  for (const load of LOADS) {
    const timing = ['--seconds', seconds, '--runs', runs, '--json'];
    reports.push(JSON.parse(await obd('bench', 'device', device, ...load, ...timing, ...options)) as Report);
  }
  const [first] = reports;
  if (first === undefined) throw new RangeError('Nothing was measured');
  return { ...first, what: 'fuse', subject, rows: reports.flatMap(({ rows }) => rows) };
}

try {
  const images = (await exec(join(packageRoot, 'bench', 'images'))).stdout.trim();
  const reports: Report[] = [];
  for (const name of ['raw', 'lz4', 'zstd']) {
    const image = join(images, `${name}.json`);
    const state = ['--state-dir', join(dir, 'state')];
    const device = await obd('attach', image, '--transport', 'fuse', '--name', name, ...service, ...state);
    try {
      reports.push(await measure(name, device, '--image', image, ...service));
    } finally {
      await obd('detach', name, ...service);
    }
  }
  const loop = (
    await exec('losetup', ['-f', '--show', '-r', '--direct-io=off', join(images, 'raw')])
  ).stdout.trim();
  try {
    reports.push(await measure('loop device on a plain file', loop));
  } finally {
    await exec('losetup', ['-d', loop]);
  }
  process.stdout.write(`${JSON.stringify(reports, undefined, 1)}\n`);
} finally {
  rmSync(dir, { recursive: true, force: true });
}
