import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { cacheOptions, openCachedRemote } from '../../src/cache/index.js';
import { silentLogger, type Logger } from '../../src/log/index.js';
import { makeSource, openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

const keys = { cacheType: 'file', cacheDir: '/c', cacheSizeGB: 4, refillSize: 262144 };

test('cacheOptions() takes what overlaybd.json says', () => {
  const { type, options } = cacheOptions(keys, silentLogger);
  assert.equal(type, 'file');
  assert.equal(options.dir, '/c');
  assert.equal(options.capacity, 4 * 2 ** 30);
  assert.equal(options.unitSize, 262144);
});

test('cacheOptions() warns that ocf is not there and refuses what is nothing', () => {
  const warnings: unknown[] = [];
  const log: Logger = { ...silentLogger, warn: (fields: unknown) => void warnings.push(fields) } as Logger;
  assert.equal(cacheOptions({ ...keys, cacheType: 'ocf' }, log).type, 'file');
  assert.deepEqual(warnings, [{ key: 'cacheType' }]);
  for (const wrong of [
    { cacheType: 'flie' },
    { refillSize: 100_000 },
    { refillSize: 2048 },
    { cacheSizeGB: -1 },
  ])
    assert.throws(() => cacheOptions({ ...keys, ...wrong }, silentLogger), { code: 'OBD_CONFIG_VALUE' });
});

test('openCachedRemote() asks the source for a size that is not known, once', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, digest } = makeSource(3 * UNIT + 5);
  let opened = 0;
  const open = async (): Promise<typeof source> => {
    opened++;
    return source;
  };
  const blob = await openCachedRemote(cache, { url: 'http://x/', digest, type: 'file', source: open });
  assert.equal(blob.size, 3 * UNIT + 5);
  await readRange(blob, 0, 10);
  await blob.close();
  assert.equal(opened, 1);
  assert.equal(source.closed, 1);
});

test('openCachedRemote() does not open the source before a miss if the size is known', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { digest, source } = makeSource(UNIT);
  const blob = await openCachedRemote(cache, {
    url: 'http://x/',
    digest,
    size: source.size,
    type: 'file',
    source: () => Promise.reject(new Error('not yet')),
  });
  await blob.close();
});

test('openCachedRemote() puts the data of type download into the layer directory', async (t) => {
  const dir = tempDir(t);
  const layer = join(dir, 'layers', 'one');
  const cache = await openCache(t, join(dir, 'cache'));
  const { source, digest } = makeSource(3 * UNIT);
  const remote = { url: 'http://x/', digest, size: source.size, dir: layer, type: 'download' } as const;
  const blob = await openCachedRemote(cache, { ...remote, source: async () => source });
  assert.deepEqual(await readRange(blob, UNIT, 10), source.plain.slice(UNIT, UNIT + 10));
  await blob.close();
  assert.ok(existsSync(join(layer, '.download')));
  assert.equal(cache.stats.usedBytes, 0);
  const again = await openCachedRemote(cache, { ...remote, source: async () => source });
  await readRange(again, UNIT, 10);
  await again.close();
  assert.equal(source.requests.length, 1);
});

test('BlobCache.openBlob() keeps names inside its directory', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const source = (): Promise<never> => Promise.reject(new Error('unused'));
  for (const digest of ['../../etc/passwd', 'sha256:abc', 'sha256:' + 'A'.repeat(64), '/etc', '.'])
    await assert.rejects(cache.openBlob({ digest, url: 'http://x/', size: 1, source }), {
      code: 'OBD_CONFIG_VALUE',
    });
});

test('BlobCache.openBlob() names a blob without digest by its URL', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const one = makeSource(UNIT, 1);
  const two = makeSource(UNIT, 2);
  const a = await cache.openBlob({ url: 'http://x/../1', size: UNIT, source: one.source });
  const b = await cache.openBlob({ url: 'http://x/../2', size: UNIT, source: two.source });
  assert.deepEqual(await readRange(a, 0, UNIT), one.source.plain);
  assert.deepEqual(await readRange(b, 0, UNIT), two.source.plain);
  await Promise.all([a.close(), b.close()]);
});
