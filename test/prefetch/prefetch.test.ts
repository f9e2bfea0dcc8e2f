import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { SECTOR } from '../../src/blob/index.js';
import {
  defaultServiceConfig,
  ImageOpener,
  makeImageConfig,
  type HostedImage,
  type ImageConfig,
  type ServiceConfig,
} from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { warningLog } from './warnings.js';
import {
  encodeTrace,
  findFiles,
  parseFileList,
  parseTrace,
  Prefetch,
  PrefetchTotals,
  TraceRecording,
} from '../../src/prefetch/index.js';
import { imageLoader } from '../../src/service/image-loader.js';
import { noFixtures } from '../support/fixtures.js';
import { goldenConfig, unpackedFixtures } from '../support/golden-images.js';
import { scriptedServer, sendRange, type ScriptedServer } from '../support/scripted-server.js';
import { tempDir } from '../support/unpack.js';

const options = { log: silentLogger, concurrency: 16, quiesce: async () => undefined };

interface Lab {
  readonly dir: string;
  readonly service: ServiceConfig;
  /** Bytes that the registry was asked for. */
  readonly served: () => number;
  /** An image whose layers are in the registry, with a cache of its own. */
  readonly config: (
    more: Record<string, unknown>,
    extraLowers?: readonly Record<string, unknown>[],
  ) => ImageConfig;
  readonly open: (
    config: ImageConfig,
    more?: Parameters<ImageOpener['openConfig']>[1],
  ) => Promise<HostedImage>;
}

async function lab(t: TestContext): Promise<Lab> {
  const dir = tempDir(t);
  const files = goldenConfig(join(unpackedFixtures(), 'small/native-lz4/image.json')).lowers.map(
    ({ file }) => {
      const bytes = readFileSync(file);
      return { bytes, digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}` };
    },
  );
  let served = 0;
  const server: ScriptedServer = await scriptedServer((request, response) => {
    const file = files.find(({ digest }) => request.url.endsWith(digest));
    const [, from = '0', to = '0'] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '') ?? [];
    served += Number(to) - Number(from) + 1;
    if (file === undefined) response.writeHead(404).end();
    else sendRange(request, response, file.bytes);
  });
  t.after(() => server[Symbol.asyncDispose]());
  const defaults = defaultServiceConfig(silentLogger);
  let caches = 0;
  const service = (): ServiceConfig => ({
    ...defaults,
    credentialFilePath: '',
    cacheConfig: { ...defaults.cacheConfig, cacheDir: join(dir, `cache${++caches}`) },
    registryConfig: { plainHttpHosts: [server.host], skipVerifyHosts: [], caFiles: [] },
  });
  return {
    dir,
    service: service(),
    served: () => served,
    config: (more, extra = []) =>
      makeImageConfig(
        {
          repoBlobUrl: `${server.url}/v2/r/blobs`,
          lowers: [...files.map(({ digest, bytes }) => ({ digest, size: bytes.length })), ...extra],
          ...more,
        },
        'test',
        silentLogger,
      ),
    open: async (config, more) => {
      const opener = new ImageOpener(service(), silentLogger);
      t.after(() => opener.close());
      const image = await opener.openConfig(config, { mode: 'read', ...more });
      t.after(() => image.close());
      return image;
    },
  };
}

/** What a program might read: scattered, in no order. */
async function workload(image: HostedImage): Promise<void> {
  const into = new Uint8Array(16 * SECTOR);
  for (const at of [1024, 5 << 20, 300 << 10, 9 << 20, 40 << 10]) await image.blob.read(at, into);
  await Promise.all([6 << 20, 2 << 20].map((at) => image.blob.read(at, new Uint8Array(100_000))));
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !condition(); i++) await sleep(10);
  assert.ok(condition());
}

test(
  'a trace is recorded with its lock, ended by removing it, and told by .ok',
  { skip: noFixtures },
  async (t) => {
    const { dir, config, open } = await lab(t);
    const trace = join(dir, 'trace');
    writeFileSync(trace, '');
    writeFileSync(`${trace}.ok`, 'of a recording before');
    const recording = await TraceRecording.begin(trace, { log: silentLogger, pollMs: 10 });
    assert.ok(existsSync(`${trace}.lock`) && !existsSync(`${trace}.ok`));
    await assert.rejects(TraceRecording.begin(trace, { log: silentLogger }), { code: 'OBD_IO_EXISTS' });
    const image = await open(config({ recordTracePath: trace }), {
      tap: (layer, blob) => recording.tap(layer, blob),
    });
    await workload(image);
    assert.equal(readFileSync(trace).length, 0, 'nothing is written before the end');
    rmSync(`${trace}.lock`);
    await until(() => existsSync(`${trace}.ok`));
    assert.ok(!existsSync(`${trace}.lock`));
    const records = parseTrace(readFileSync(trace), trace);
    assert.ok(
      records.some(({ layer }) => layer === 0) && records.every(({ layer }) => layer < image.lowers.length),
    );
    for (const { layer, offset, count } of records)
      assert.ok(offset + count <= (image.lowers[layer]?.blob.size ?? 0));
    // The two ends and the index of each layer are read when the image opens.
    for (const { number, blob } of image.lowers)
      assert.ok(records.some((r) => r.layer === number && r.offset + r.count === blob.size));
    await workload(image);
    await recording.end();
    assert.equal(parseTrace(readFileSync(trace), trace).length, records.length, 'it has ended');
  },
);

test(
  'a device records every read, those that are local too, and writes the trace when it closes',
  {
    skip: noFixtures,
  },
  async (t) => {
    const { dir, service, config } = await lab(t);
    const trace = join(dir, 'trace');
    const path = join(dir, 'config.v1.json');
    writeFileSync(trace, '');
    writeFileSync(path, JSON.stringify(config({ recordTracePath: trace })));
    const opener = new ImageOpener(service, silentLogger);
    t.after(() => opener.close());
    const load = imageLoader(opener, {
      log: silentLogger,
      ioPolicy: service.ioPolicy,
      concurrency: 16,
      prefetched: new PrefetchTotals(),
      quiesce: async () => undefined,
    });
    const { device } = await load(path, new AbortController().signal);
    await device.read(1 << 20, new Uint8Array(8192));
    await device.read(1 << 20, new Uint8Array(8192));
    // I/O workers find nothing local in layers that are recorded.
    const { files } = device.planner as { files: readonly { kind: string }[] };
    assert.ok(files.every(({ kind }) => kind === 'none'));
    await device.close();
    assert.ok(existsSync(`${trace}.ok`) && !existsSync(`${trace}.lock`));
    const records = parseTrace(readFileSync(trace), trace);
    const last = records.slice(-2).map(({ layer, offset, count }) => `${layer} ${offset} ${count}`);
    assert.equal(last[0], last[1]);
    // Not recorded: planned by the workers as ever.
    rmSync(trace);
    const again = await load(path, new AbortController().signal);
    const plain = (again.device.planner as { files: readonly { kind: string }[] }).files;
    assert.ok(plain.every(({ kind }) => kind === 'zfile'));
    await again.device.close();
  },
);

test('an image that does not open leaves no lock', { skip: noFixtures }, async (t) => {
  const { dir, service, config } = await lab(t);
  const trace = join(dir, 'trace');
  const path = join(dir, 'config.v1.json');
  writeFileSync(trace, '');
  writeFileSync(path, JSON.stringify(config({ recordTracePath: trace }, [{ file: join(dir, 'none') }])));
  const opener = new ImageOpener(service, silentLogger);
  t.after(() => opener.close());
  const load = imageLoader(opener, {
    log: silentLogger,
    ioPolicy: service.ioPolicy,
    concurrency: 16,
    prefetched: new PrefetchTotals(),
    quiesce: async () => undefined,
  });
  await assert.rejects(load(path, new AbortController().signal));
  assert.ok(!existsSync(`${trace}.lock`) && !existsSync(`${trace}.ok`));
});

test('a replayed trace brings exactly what the workload reads', { skip: noFixtures }, async (t) => {
  const { dir, served, config, open } = await lab(t);
  const trace = join(dir, 'trace');
  writeFileSync(trace, '');
  const recording = await TraceRecording.begin(trace, { log: silentLogger });
  const first = await open(config({}), { tap: (layer, blob) => recording.tap(layer, blob) });
  await workload(first);
  await recording.end();
  const without = served();

  const totals = new PrefetchTotals();
  for (const how of ['recordTracePath', 'accelerationLayer'] as const) {
    const layerDir = join(dir, 'layer');
    mkdirSync(layerDir, { recursive: true });
    writeFileSync(join(layerDir, 'trace'), readFileSync(trace));
    const replayed =
      how === 'recordTracePath'
        ? config({ recordTracePath: trace })
        : config({ accelerationLayer: true }, [{ dir: layerDir }]);
    const prefetch = await Prefetch.begin(replayed, options);
    assert.ok(prefetch.foretold && prefetch.tap === undefined);
    const before = served();
    const image = await open(replayed, { foretold: true });
    totals.add(prefetch);
    const earlier = totals.sums;
    prefetch.start(image);
    await prefetch.done();
    const { progress } = prefetch;
    assert.equal(progress.failures, 0);
    assert.ok(progress.bytes > 0);
    const now = totals.sums;
    assert.deepEqual(now, {
      ...earlier,
      done: earlier.done + progress.jobs,
      bytes: earlier.bytes + progress.bytes,
    });
    totals.remove(prefetch);
    assert.deepEqual(totals.sums, now, 'what is closed still counts');
    const fetched = served() - before;
    await workload(image);
    assert.equal(served() - before, fetched, 'the workload had to fetch nothing');
    assert.ok(fetched < without, `${fetched} bytes were fetched, ${without} without the trace`);
    const other = await Prefetch.begin(replayed, options);
    other.start(image);
    await other.done();
    assert.equal(other.progress.bytes, 0, 'what is present is not fetched');
    await Promise.all([prefetch.close(), other.close()]);
  }
});

test(
  'a trace that is damaged, or of another image, does not stand in the way',
  { skip: noFixtures },
  async (t) => {
    const { dir, config, open } = await lab(t);
    const trace = join(dir, 'trace');
    const records = [
      { layer: 200, offset: 0, count: 1 },
      { layer: 0, offset: 2 ** 50, count: 1 << 20 },
    ];
    const damaged = encodeTrace(records);
    damaged.writeUInt8(1, 20 + 24);
    const { log, warnings } = warningLog();
    for (const [bytes, warning] of [
      [damaged, 'trace is not used'],
      [
        encodeTrace(records),
        'records of the trace do not fit the image and are passed over: it is of another image',
      ],
      [Buffer.from('no/absolute/path\n'), 'trace is not used'],
      [Buffer.alloc(65537, 'a'), 'trace is not used'],
    ] as const) {
      writeFileSync(trace, bytes);
      warnings.length = 0;
      const traced = config({ recordTracePath: trace });
      const prefetch = await Prefetch.begin(traced, { ...options, log });
      const image = await open(traced);
      prefetch.start(image);
      await prefetch.done();
      await prefetch.close();
      assert.deepEqual(warnings, [warning]);
      await image.blob.read(0, new Uint8Array(4096));
    }
  },
);

test('a list of files brings the files, and all below a directory', { skip: noFixtures }, async (t) => {
  const { dir, served, config, open } = await lab(t);
  const list = join(dir, 'trace');
  writeFileSync(list, '/not/there\n');
  const image = await open(config({}));
  const find = async (text: string) =>
    findFiles(parseFileList(Buffer.from(text), list), image.blob, {
      workDir: dir,
      log: silentLogger,
      signal: new AbortController().signal,
    });
  const all = await find('/\n');
  const total = all.reduce((sum, { length }) => sum + length, 0);
  assert.ok(all.length > 100 && total > 100_000);
  assert.deepEqual(await find('/*'), all);
  assert.deepEqual(await find('/no such/file\n\n'), []);

  writeFileSync(list, '/\n');
  const listed = config({ recordTracePath: list });
  const prefetch = await Prefetch.begin(listed, options);
  assert.ok(!prefetch.foretold);
  const fresh = await open(listed);
  prefetch.start(fresh);
  await prefetch.done();
  const fetched = served();
  for (const { offset, length } of all) await fresh.blob.read(offset, new Uint8Array(length));
  assert.equal(served(), fetched, 'all files were there');
  await prefetch.close();
});

test('parseFileList() refuses what is no list, with the line', () => {
  const parse = (text: string) => parseFileList(Buffer.from(text), 'l');
  assert.deepEqual(parse(' /usr/bin/a b+@\xc3\xa9 \r\n/etc/\n/lib/*\n'), [
    { names: ['usr', 'bin', Buffer.from('a b+@\xc3\xa9').toString('latin1')], tree: false },
    { names: ['etc'], tree: true },
    { names: ['lib'], tree: true },
  ]);
  assert.throws(() => parse('/a\nb\n'), { code: 'OBD_FORMAT_BAD_HEADER', offset: 2 });
  assert.throws(() => parse('/a/../b\n'), { code: 'OBD_FORMAT_BAD_HEADER', offset: 1 });
  assert.throws(() => parse('/a\0b\n'), { code: 'OBD_FORMAT_BAD_HEADER' });
  assert.throws(() => parse('/a\n'.repeat(30_000)), { code: 'OBD_FORMAT_LIMIT' });
});

test('closing a device stops its prefetch', { skip: noFixtures }, async (t) => {
  const { dir, config, open } = await lab(t);
  const trace = join(dir, 'trace');
  writeFileSync(
    trace,
    encodeTrace(Array.from({ length: 200 }, (_, i) => ({ layer: 0, offset: i * 20_000, count: 4096 }))),
  );
  const traced = config({ recordTracePath: trace });
  const prefetch = await Prefetch.begin(traced, options);
  const image = await open(traced, { foretold: true });
  prefetch.start(image);
  await prefetch.close();
  await image.close();
});
