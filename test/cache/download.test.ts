import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import {
  Download,
  openCachedRemote,
  type BlobCache,
  type CachedBlob,
  type CacheType,
  type DownloadKeys,
} from '../../src/cache/index.js';
import { FileLock, lockFile } from '../../src/native/index.js';
import { silentLogger } from '../../src/log/index.js';
import type { SourceBlob } from '../support/source-blob.js';
import { makeSource, openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

const KEYS: DownloadKeys = { delay: 0, delayExtra: 0, maxMBps: 1000, tryCnt: 5, blockSize: 3 * UNIT };
const OPTIONS = { minFree: 0, retryMs: 1 };

interface Setup {
  readonly cache: BlobCache;
  readonly blob: CachedBlob;
  readonly source: SourceBlob;
  readonly dir: string;
  readonly commit: string;
  readonly start: (keys?: Partial<DownloadKeys>) => Download;
}

async function setUp(t: TestContext, type: CacheType, units: number, capacity = 2 ** 30): Promise<Setup> {
  const root = tempDir(t);
  const dir = join(root, 'layer');
  mkdirSync(dir);
  const cache = await openCache(t, join(root, 'cache'), { capacity });
  const { source, digest } = makeSource(units * UNIT + 9);
  const blob = await openCachedRemote(cache, {
    url: 'http://x/',
    digest,
    size: source.size,
    dir,
    type,
    source: async () => source,
  });
  const downloads: Download[] = [];
  t.after(async () => {
    await blob.close();
    for (const download of downloads) assert.notEqual(download.progress.state, 'running');
  });
  return {
    cache,
    blob,
    source,
    dir,
    commit: join(dir, 'overlaybd.commit'),
    start: (keys = {}) => {
      const download = new Download(
        [{ blob, digest, dir, type }],
        { ...KEYS, ...keys },
        silentLogger,
        OPTIONS,
      );
      downloads.push(download);
      return download;
    },
  };
}

for (const type of ['file', 'download'] as const) {
  test(`Download brings a layer of cache type ${type} into its directory, fetching no byte twice`, async (t) => {
    const { blob, source, dir, commit, start } = await setUp(t, type, 50);
    await readRange(blob, 7 * UNIT, 5 * UNIT);
    source.delayMs = 1;
    const download = start();
    for (let unit = 0; unit < 50; unit += 6) await readRange(blob, unit * UNIT, UNIT);
    await download.done;
    assert.deepEqual(download.progress, {
      state: 'done',
      layers: 1,
      layersDone: 1,
      layersFailed: 0,
      bytes: blob.size,
      failure: undefined,
    });
    assert.deepEqual(new Uint8Array(readFileSync(commit)), source.plain);
    assert.deepEqual(readdirSync(dir), ['overlaybd.commit']);
    assert.equal(statSync(commit).mode & 0o777, 0o644);
    assert.ok(source.bytesRead <= blob.size + 3 * UNIT, `fetched ${source.bytesRead} of ${blob.size}`);
    const before = source.requests.length;
    assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
    await blob.refetch(UNIT, 1);
    assert.deepEqual(await readRange(blob, 0, 2 * UNIT), source.plain.slice(0, 2 * UNIT));
    assert.equal(source.requests.length - before, type === 'file' ? 0 : 1);
    assert.deepEqual(new Uint8Array(readFileSync(commit)), source.plain);
    await blob.close();
    assert.deepEqual(readdirSync(dir), ['overlaybd.commit']);
  });

  test(`Download of cache type ${type} fetches all again when the digest is wrong, and leaves nothing wrong`, async (t) => {
    const { blob, source, commit, start, cache } = await setUp(t, type, 20);
    // The cache holds a wrong unit.
    source.onRead = (_, into) => () => into.fill(0, 0, 10);
    await readRange(blob, 4 * UNIT, 10);
    await cache.flush();
    source.onRead = () => undefined;
    await start().done;
    assert.deepEqual(new Uint8Array(readFileSync(commit)), source.plain);
  });

  test(`Download of cache type ${type} gives up after tryCnt attempts`, async (t) => {
    const { source, dir, commit, start } = await setUp(t, type, 4);
    let reads = 0;
    source.onRead = () => {
      reads++;
      throw new Error('gone');
    };
    const download = start({ tryCnt: 3 });
    await download.done;
    assert.equal(download.progress.layersFailed, 1);
    assert.equal(reads, 3);
    assert.ok(!existsSync(commit));
    assert.ok(readdirSync(dir).every((name) => name.startsWith('.download')));
  });

  test(`Download of cache type ${type} stops at once and goes on where it was`, async (t) => {
    const { blob, source, commit, start } = await setUp(t, type, 90);
    source.delayMs = 3;
    const first = start();
    while (first.progress.bytes < 30 * UNIT) await new Promise((resolve) => setTimeout(resolve, 2));
    await first.stop();
    assert.equal(first.progress.state, 'stopped');
    assert.ok(!existsSync(commit));
    source.delayMs = 0;
    await start().done;
    assert.deepEqual(new Uint8Array(readFileSync(commit)), source.plain);
    assert.ok(source.bytesRead <= blob.size + 2 * 3 * UNIT, `fetched ${source.bytesRead} of ${blob.size}`);
  });
}

test('Download works when the cache is far smaller than the layer, and readers use what it has', async (t) => {
  const { blob, source, commit, start } = await setUp(t, 'file', 200, 20 * UNIT);
  source.delayMs = 1;
  const download = start();
  while (download.progress.bytes < 100 * UNIT) await new Promise((resolve) => setTimeout(resolve, 2));
  const before = source.bytesRead;
  const seen = download.progress.bytes;
  assert.deepEqual(await readRange(blob, 10 * UNIT, 50 * UNIT), source.plain.slice(10 * UNIT, 60 * UNIT));
  assert.ok(source.bytesRead - before <= download.progress.bytes - seen + 6 * UNIT, 'read from the download');
  await download.done;
  assert.deepEqual(new Uint8Array(readFileSync(commit)), source.plain);
  assert.ok(source.bytesRead <= blob.size + 6 * UNIT);
});

test('Download goes on at the first hole of a file that the reference left', async (t) => {
  const { source, dir, commit, start } = await setUp(t, 'file', 60);
  const path = join(dir, '.download');
  writeFileSync(path, source.plain.subarray(0, 30 * UNIT));
  truncateSync(path, source.size);
  await start().done;
  assert.deepEqual(new Uint8Array(readFileSync(commit)), source.plain);
  assert.equal(source.bytesRead, source.size - 30 * UNIT);
});

test('Download does not believe what it finds', async (t) => {
  const { source, dir, commit, start } = await setUp(t, 'file', 60);
  writeFileSync(join(dir, '.download'), Buffer.alloc(30 * UNIT, 1));
  await start().done;
  assert.deepEqual(new Uint8Array(readFileSync(commit)), source.plain);
});

test('bytes that a download has and nobody has checked do not mend what readers found damaged', async (t) => {
  const { blob, source, start } = await setUp(t, 'file', 200);
  source.delayMs = 2;
  // The line to the registry has a bad moment.
  let bad = true;
  source.onRead = (offset, into) => (bad && offset < 30 * UNIT ? () => into.fill(0) : undefined);
  const download = start();
  while (download.progress.bytes < 40 * UNIT) await new Promise((resolve) => setTimeout(resolve, 2));
  bad = false;
  await readRange(blob, 9 * UNIT, UNIT);
  await blob.refetch(9 * UNIT, UNIT);
  assert.deepEqual(await readRange(blob, 9 * UNIT, UNIT), source.plain.slice(9 * UNIT, 10 * UNIT));
  assert.equal(download.progress.state, 'running');
  await download.stop();
});

test('Download leaves a layer to whoever is downloading it', async (t) => {
  const { blob, source, dir, commit, start } = await setUp(t, 'file', 10);
  const fd = openSync(join(dir, '.download'), 'w+');
  assert.ok(lockFile(fd, FileLock.EXCLUSIVE));
  const download = start();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(download.progress.state, 'running');
  assert.equal(source.requests.length, 0);
  writeSync(fd, source.plain);
  renameSync(join(dir, '.download'), commit);
  await download.done;
  assert.equal(download.progress.layersDone, 1);
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  assert.equal(source.requests.length, 0, 'what is on disk serves the readers');
});

test('Download keeps to its rate and to its delay', async (t) => {
  const { blob, start } = await setUp(t, 'file', 128);
  const began = performance.now();
  await start({ maxMBps: 1 }).done;
  const seconds = (performance.now() - began) / 1000;
  assert.ok(seconds > blob.size / 2 ** 20 - 0.15, `took ${seconds} s`);
  const late = await setUp(t, 'file', 1);
  const waiting = late.start({ delay: 1000, delayExtra: 5 });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(waiting.progress.state, 'waiting');
  await waiting.stop();
  assert.deepEqual(readdirSync(late.dir), []);
});

test('CachedBlob.close() stops the download that reads it', async (t) => {
  const { blob, source, start, commit } = await setUp(t, 'file', 200);
  source.delayMs = 5;
  const download = start();
  while (download.progress.bytes === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  await blob.close();
  assert.equal(download.progress.state, 'stopped');
  assert.equal(source.closed, 1);
  assert.ok(!existsSync(commit));
});

test('Download stops before the disk is full', async (t) => {
  const { blob, dir, commit } = await setUp(t, 'file', 10);
  const layer = { blob, digest: blob.name, dir, type: 'file' } as const;
  const download = new Download([layer], { ...KEYS, tryCnt: 1 }, silentLogger, { minFree: 2 ** 62 });
  await download.done;
  assert.equal(download.progress.layersFailed, 1);
  assert.ok(!existsSync(commit));
});

test('Download refuses settings that cannot work', () => {
  for (const wrong of [{ blockSize: 0 }, { tryCnt: 0 }])
    assert.throws(() => new Download([], { ...KEYS, ...wrong }, silentLogger), { code: 'OBD_CONFIG_VALUE' });
});
