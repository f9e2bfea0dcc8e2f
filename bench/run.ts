/** See bench/run. Each section runs programs that a user can run, and keeps what they print. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { circumstances, tableOf, type Report, type Row } from '../src/bench/index.js';
import { formatTable } from '../src/cli/units.js';
import { packageRoot } from '../src/native/index.js';
import { writePerformancePage } from './support/performance-page.js';
import { GARBAGE, RESULTS, type Section } from './support/results.js';
import { workerGarbage } from './support/worker-garbage.js';

const exec = promisify(execFile);
const flags = process.argv.slice(2).filter((argument) => argument.startsWith('--'));
const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));
const quick = flags.includes('--quick');
const [seconds, runs] = quick ? ['0.3', '1'] : ['0.5', '10'];

const script = (name: string): string => join(packageRoot, 'bench', name);

async function run(program: string, ...args: string[]): Promise<string> {
  const { stdout } = await exec(program, args, { maxBuffer: 64 << 20 });
  return stdout;
}

/** One `obd bench`, as its report. */
async function bench(...args: string[]): Promise<Report> {
  const report = JSON.parse(
    await run(process.execPath, join(packageRoot, 'bin', 'obd'), 'bench', ...args, '--json'),
  ) as Report;
  show(report);
  return report;
}

function show({ what, subject, rows }: Report): void {
  process.stdout.write(`${what} ${subject}\n${formatTable(tableOf(rows))}\n`);
}

let directory: string | undefined;
async function image(name: string): Promise<string> {
  directory ??= (await run(script('images'))).trim();
  return join(directory, name);
}

const IMAGES = ['raw', 'lz4', 'lz4-32k', 'zstd'];
const timing = ['--seconds', seconds, '--runs', runs, '--warm-up', '0.2'];

/** Each section gives reports whose `subject` tells them apart. */
const SECTIONS: Readonly<Record<Section, () => Promise<Report[]>>> = {
  ring: async () => {
    const reports: Report[] = [];
    for (const name of IMAGES) {
      const path = await image(`${name}.json`);
      const parts = [
        await bench('ring', path, ...timing, '--depth', '1,32'),
        await bench('ring', path, ...timing, '--depth', '1,32', '--pattern', 'local'),
        await bench('ring', path, ...timing, '--bs', '64k', '--depth', '32'),
        await bench('ring', path, ...timing, '--bs', '1M', '--depth', '1,4', '--pattern', 'sequential'),
      ];
      reports.push(together(parts, name));
    }
    return reports;
  },
  gzip: async () => {
    const path = await image('gzip.json');
    const dir = await mkdtemp(join(tmpdir(), 'obd-bench-gzip-'));
    try {
      const config = join(dir, 'overlaybd.json');
      const cache = (name: string): object => ({ cacheDir: join(dir, name), cacheSizeGB: 4 });
      await writeFile(
        config,
        JSON.stringify({
          cacheConfig: { cacheType: 'file', ...cache('blobs') },
          gzipCacheConfig: { enable: true, refillSize: 1 << 20, ...cache('gzip') },
          logConfig: { logPath: join(dir, 'log') },
        }),
      );
      // The first of them meets nothing in the cache, and leaves nothing out of it.
      const once = ['--bs', '1M', '--depth', '2', '--pattern', 'sequential', '--warm-up', '0'];
      const parts = [
        await bench('ring', path, ...once, '--seconds', quick ? '5' : '20', '--service-config', config),
        await bench('ring', path, ...timing, '--depth', '1,32', '--service-config', config),
      ];
      return [together(parts.slice(1), 'gzip')];
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  },
  cold: async () => [
    together([await bench('ring', await image('lz4.json'), ...timing, '--depth', '1,32', '--cold')], 'lz4'),
  ],
  tail: async () => {
    const path = await image('raw.json');
    const yardstick = ['--yardstick', await image('raw')];
    const many = ['--seconds', quick ? '0.3' : '1', '--runs', quick ? '1' : '20', '--depth', '1'];
    const report = together([await bench('ring', path, ...many, ...yardstick)], 'raw');
    return [{ ...report, rows: [...report.rows, ...(await garbageCollections())] }];
  },
  open: async () => {
    const reports: Report[] = [];
    for (const name of ['layers-33', 'lz4'])
      reports.push({
        ...(await bench('open', await image(`${name}.json`), '--runs', quick ? '5' : '200')),
        subject: name,
      });
    return reports;
  },
  index: async () => [await bench('index', '--runs', quick ? '5' : '30')],
  cache: async () => [
    { ...(await bench('cache', '/var/tmp', ...(quick ? ['--size', '64M'] : []))), subject: 'disk' },
  ],
  convert: async () => {
    const tar = await image('root.tar');
    const reports: Report[] = [];
    for (const algorithm of ['lz4', 'zstd']) {
      const options = ['--algorithm', algorithm, '--runs', quick ? '1' : '3', '--workdir', '/dev/shm'];
      reports.push({ ...(await bench('convert', tar, ...options)), subject: algorithm });
    }
    const tools = join(import.meta.dirname, 'convert', 'tools.js');
    return [...reports, ...(await scriptReports(process.execPath, tools, tar, quick ? '1' : '3'))];
  },
  attach: async () => {
    const reports: Report[] = [];
    const idle = quick ? ['--idle', '1'] : ['--rest', '150', '--idle', '20'];
    for (const [name, devices] of [
      ['layers-33', quick ? '5' : '100'],
      ['lz4', quick ? '5' : '200'],
    ] as const)
      for (const transport of ['fuse', 'nbd']) {
        const options = ['--devices', devices, '--transport', transport, ...idle];
        const report = await bench('attach', await image(`${name}.json`), ...options);
        reports.push({ ...report, subject: `${name}, ${transport}` });
      }
    const inMachine = [await image('lz4.json'), quick ? '5' : '200', ...idle];
    const [tcmu] = await scriptReports(script('device/attach-vm'), ...inMachine);
    return tcmu === undefined ? reports : [...reports, { ...tcmu, subject: 'lz4, tcmu in User-Mode Linux' }];
  },
  fuse: () => scriptReports(process.execPath, join(import.meta.dirname, 'device', 'fuse.js'), seconds, runs),
  tcmu: async () => [await tcmuReport()],
  'cold-start': () => scriptReports(script('cold-start')),
};

/** Reports about one image as one. */
function together(parts: readonly Report[], subject: string): Report {
  const [first] = parts;
  if (first === undefined) throw new RangeError('Nothing was measured');
  return { ...first, subject, rows: parts.flatMap(({ rows }) => rows) };
}

/** A script whose output is reports as JSON. */
async function scriptReports(program: string, ...args: string[]): Promise<Report[]> {
  const reports = JSON.parse(await run(program, ...args)) as Report[];
  reports.forEach(show);
  return reports;
}

/** How often the I/O workers collect garbage while they serve. */
async function garbageCollections(): Promise<Row[]> {
  const rows: Row[] = [];
  const [seconds, counted] = quick ? [4, 2] : [14, 10];
  for (const name of [...IMAGES, 'layers-33'])
    for (const depth of [1, 32]) {
      const { times } = await workerGarbage({ image: await image(`${name}.json`), depth, seconds, counted });
      rows.push({ name: `${GARBAGE} in ${counted} s: ${name}, QD${depth}`, collections: times.length });
    }
  process.stdout.write(`${formatTable(tableOf(rows))}\n`);
  return rows;
}

/** The table that bench/device/tcmu-vm prints, as rows: a line of disks, then for each load a figure per disk and a unit. */
async function tcmuReport(): Promise<Report> {
  const output = await run(script('device/tcmu-vm'), ...(quick ? ['--seconds', '1', '--runs', '1'] : []));
  process.stdout.write(output);
  const lines = output.split('\n');
  const first = lines.findIndex((line) => /^(rand)?read /.test(line));
  const disks = (lines[first - 1] ?? '').trim().split(/\s+/);
  const kernel = lines.find((line) => /^\d+\.\d+\S*$/.test(line)) ?? 'unknown';
  const rows: Row[] = [];
  for (const line of lines) {
    const [, load, figures = '', unit] = /^((?:rand)?read \S+ QD\d+) (.*) (IOPS|MB\/s)$/.exec(line) ?? [];
    if (load === undefined) continue;
    const values = figures
      .replace(/\([^)]*\)/g, '')
      .trim()
      .split(/\s+/);
    disks.forEach((disk, i) =>
      rows.push({ name: `${disk}, ${load}`, [unit === 'IOPS' ? 'iops' : 'mbPerSecond']: Number(values[i]) }),
    );
  }
  if (rows.length === 0) throw new Error(`bench/device/tcmu-vm measured nothing: ${output}`);
  const report: Report = { what: 'tcmu', subject: `User-Mode Linux ${kernel}`, ...circumstances(), rows };
  show(report);
  return report;
}

if (!flags.includes('--report')) {
  const names = Object.keys(SECTIONS) as Section[];
  const unknown = wanted.find((name) => !names.includes(name as Section));
  if (unknown !== undefined || flags.some((flag) => flag !== '--quick')) {
    process.stderr.write(
      `Cannot run "${unknown ?? flags.join(' ')}": expected ${names.join(', ')}; --quick, --report\n`,
    );
    process.exit(2);
  }
  await mkdir(RESULTS, { recursive: true });
  for (const name of names) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    process.stdout.write(`==> ${name}\n`);
    try {
      const reports = await SECTIONS[name]();
      await writeFile(join(RESULTS, `${name}.json`), `${JSON.stringify(reports, undefined, 2)}\n`);
    } catch (error) {
      // The others are worth having; the old numbers stay.
      process.exitCode = 1;
      process.stderr.write(`${name}: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
}
await writePerformancePage();
