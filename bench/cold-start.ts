/** See bench/cold-start. `node dist/bench/cold-start.js OCI-LAYOUT [--quick]` */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { circumstances, type Report, type Row } from '../src/bench/index.js';
import { packageRoot } from '../src/native/index.js';
import type { DeviceInfo } from '../src/service/index.js';

const LATENCY = '20ms';
const RATE = '25Mbit';
const PROGRAM = ['/usr/bin/python3', '/srv/report.py'];
/** Blobs fetched at once by who downloads everything, as containerd does. */
const DOWNLOADS = 3;

const exec = promisify(execFile);
const [layout = '', ...flags] = process.argv.slice(2);
const quick = flags.includes('--quick');
const work = await mkdtemp(join(tmpdir(), 'obd-cold-start-'));
const store = join(work, 'registry');
const cli = join(packageRoot, 'bin', 'obd');

async function obd(...args: string[]): Promise<string> {
  return (await exec(cli, args, { maxBuffer: 16 << 20 })).stdout;
}

/** A registry over `store`, and its address. */
async function registry(...options: string[]): Promise<{ host: string; child: ChildProcess }> {
  const child = spawn(cli, ['registry', '--listen', '127.0.0.1:0', ...options, store], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  return { host: line.toString().trim().replace('http://', ''), child };
}

async function stop(child: ChildProcess): Promise<void> {
  const ended = once(child, 'close');
  child.kill();
  await ended;
}

/** Runs the program in a root directory: milliseconds to its first output and to its end. */
async function runIn(root: string): Promise<{ first: number; end: number }> {
  const script =
    'mount --make-private "$1" 2>/dev/null || true; cd "$1"; shift; mount --bind /dev dev; mount -t proc proc proc; exec chroot . "$@"';
  const started = performance.now();
  const child = spawn(
    'unshare',
    ['--mount', '--propagation', 'unchanged', 'sh', '-ec', script, 'sh', root, ...PROGRAM],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let first = 0;
  child.stdout.on('data', () => (first ||= performance.now() - started));
  const [status] = (await once(child, 'close')) as [number | null];
  if (status !== 0 || first === 0) throw new Error(`The program in ${root} ended with ${String(status)}`);
  return { first, end: performance.now() - started };
}

/** Options of a service with directories of its own. */
async function serviceIn(dir: string, refillSize: number): Promise<{ config: string; options: string[] }> {
  const config = join(dir, 'overlaybd.json');
  await writeFile(
    config,
    JSON.stringify({
      apiSocket: join(dir, 'sock'),
      logConfig: { logLevel: 2, logPath: join(dir, 'log') },
      cacheConfig: { cacheType: 'file', cacheDir: join(dir, 'cache'), cacheSizeGB: 4, refillSize },
      enableAudit: false,
      download: { enable: false },
    }),
  );
  return { config, options: ['--service-config', config, '--state-dir', join(dir, 'state')] };
}

/** Records what the program reads, and pushes the image with that trace as `TAG-traced`. */
async function recordTrace(host: string, tag: string): Promise<void> {
  const dir = await mkdtemp(join(work, 'record-'));
  const { options } = await serviceIn(dir, 256 << 10);
  const image = `docker://${host}/cold:${tag}`;
  await obd(
    'record-trace',
    ...options,
    '--plain-http',
    '--working-dir',
    dir,
    image,
    `${image}-traced`,
    '--',
    ...PROGRAM,
  );
}

/** One cold start from a converted image. */
async function lazily(host: string, tag: string, refillSize: number, name?: string): Promise<Row> {
  const dir = await mkdtemp(join(work, 'lazy-'));
  const { config, options: service } = await serviceIn(dir, refillSize);
  const root = join(dir, 'root');
  await mkdir(root);
  // The service is there before images come.
  const daemon = spawn(cli, ['service', '--state-dir', join(dir, 'state'), config], { stdio: 'ignore' });
  try {
    while ((await obd('list', ...service, '--json').catch(() => '')) === '') await sleep(100);
    const started = performance.now();
    await obd('mount', ...service, '--plain-http', `docker://${host}/cold:${tag}`, root);
    const mounted = performance.now() - started;
    try {
      const { first, end } = await runIn(root);
      const [device] = JSON.parse(await obd('list', ...service, '--json')) as DeviceInfo[];
      if (device === undefined) throw new Error('The device is gone');
      return {
        name: name ?? `${tag}, units of ${refillSize >> 10} KiB`,
        mountS: mounted / 1000,
        firstOutputS: (mounted + first) / 1000,
        endS: (mounted + end) / 1000,
        readMib: device.bytesRead / 2 ** 20,
        fetchedMib: device.bytesFetched / 2 ** 20,
        fetchedPerRead: device.bytesFetched / device.bytesRead,
        imageMib: device.remoteBytes / 2 ** 20,
      };
    } finally {
      await obd('umount', ...service, root);
    }
  } finally {
    await stop(daemon);
  }
}

interface Manifest {
  readonly layers: readonly { readonly digest: string; readonly size: number }[];
}

/** The ordinary way: all layers are downloaded, unpacked one after the other, and then the program starts. */
async function eagerly(host: string): Promise<Row> {
  const dir = await mkdtemp(join(work, 'eager-'));
  const root = join(dir, 'root');
  await mkdir(root);
  const url = `http://${host}/v2/cold`;
  const started = performance.now();
  const accept = 'application/vnd.oci.image.manifest.v1+json';
  const { layers } = (await (
    await fetch(`${url}/manifests/plain`, { headers: { accept } })
  ).json()) as Manifest;
  const waiting = [...layers.entries()];
  const lane = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const response = await fetch(`${url}/blobs/${next[1].digest}`);
      if (!response.ok || response.body === null) throw new Error(`${next[1].digest}: ${response.status}`);
      await writeFile(join(dir, String(next[0])), response.body);
    }
  };
  await Promise.all(Array.from({ length: DOWNLOADS }, lane));
  const downloaded = performance.now() - started;
  for (const i of layers.keys()) {
    const tar = spawn('tar', ['-xzp', '--numeric-owner', '-C', root], {
      stdio: ['pipe', 'inherit', 'inherit'],
    });
    createReadStream(join(dir, String(i))).pipe(tar.stdin);
    const [status] = (await once(tar, 'close')) as [number | null];
    if (status !== 0) throw new Error(`Layer ${i} does not unpack`);
  }
  const unpacked = performance.now() - started;
  const { first, end } = await runIn(root);
  const size = layers.reduce((sum, layer) => sum + layer.size, 0);
  return {
    name: 'everything first',
    mountS: unpacked / 1000,
    firstOutputS: (unpacked + first) / 1000,
    endS: (unpacked + end) / 1000,
    fetchedMib: size / 2 ** 20,
    imageMib: size / 2 ** 20,
    downloadS: downloaded / 1000,
  };
}

const tags = quick ? ['lz4'] : ['lz4', 'zstd', 'zstd-32k'];
try {
  await mkdir(store);
  const fast = await registry();
  try {
    const from = `oci:${layout}:demo`;
    const to = (tag: string): string => `docker://${fast.host}/cold:${tag}`;
    await obd('convert', '--quiet', '--plain-http', from, to('lz4'));
    if (!quick) {
      await obd('convert', '--quiet', '--plain-http', '--algorithm', 'zstd', from, to('zstd'));
      await obd(
        'convert',
        '--quiet',
        '--plain-http',
        '--algorithm',
        'zstd',
        '--bs',
        '32',
        from,
        to('zstd-32k'),
      );
    }
    for (const tag of tags) await recordTrace(fast.host, tag);
    await pushPlain(fast.host);
  } finally {
    await stop(fast.child);
  }
  const slow = await registry('--latency', LATENCY, '--rate', RATE);
  try {
    const rows: Row[] = [];
    for (const tag of tags) {
      rows.push(await lazily(slow.host, tag, 256 << 10));
      rows.push(await lazily(slow.host, `${tag}-traced`, 256 << 10, `${tag}, with a trace`));
    }
    if (!quick)
      for (const size of [64, 128, 512, 1024]) rows.push(await lazily(slow.host, 'lz4', size << 10));
    rows.push(await eagerly(slow.host));
    const subject = `${PROGRAM.join(' ')} over ${LATENCY}, ${RATE}/s`;
    const report: Report = { what: 'cold-start', subject, ...circumstances(), rows };
    process.stdout.write(`${JSON.stringify([report], undefined, 1)}\n`);
  } finally {
    await stop(slow.child);
  }
} finally {
  await rm(work, { recursive: true, force: true });
}

/** The ordinary image, as anybody would push it. */
async function pushPlain(host: string): Promise<void> {
  const read = async (digest: string): Promise<Buffer> =>
    readFile(join(layout, 'blobs', digest.replace(':', '/')));
  const index = JSON.parse(await readFile(join(layout, 'index.json'), 'utf8')) as {
    manifests: readonly { digest: string; mediaType: string }[];
  };
  const [first] = index.manifests;
  if (first === undefined) throw new Error(`${layout} holds no image`);
  const manifest = await read(first.digest);
  const { config, layers } = JSON.parse(manifest.toString()) as Manifest & { config: { digest: string } };
  for (const { digest } of [config, ...layers]) {
    const begun = await fetch(`http://${host}/v2/cold/blobs/uploads/`, { method: 'POST' });
    const location = new URL(begun.headers.get('location') ?? '', `http://${host}`);
    location.searchParams.set('digest', digest);
    const put = await fetch(location, { method: 'PUT', body: new Uint8Array(await read(digest)) });
    if (put.status !== 201) throw new Error(`Cannot push ${digest}: ${put.status}`);
  }
  const headers = { 'content-type': first.mediaType };
  const put = await fetch(`http://${host}/v2/cold/manifests/plain`, {
    method: 'PUT',
    headers,
    body: new Uint8Array(manifest),
  });
  if (put.status !== 201) throw new Error(`Cannot push the manifest: ${put.status}`);
}
