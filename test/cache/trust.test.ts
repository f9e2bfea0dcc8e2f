/** What is on disk is believed only as far as it can be checked. */
import assert from 'node:assert/strict';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BlobCache } from '../../src/cache/index.js';
import { silentLogger, type Logger } from '../../src/log/index.js';
import { makeSource, openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

test('BlobCache starts over with a file that has no sidecar, as the reference leaves them', async (t) => {
  const dir = tempDir(t);
  const { source, digest, open } = makeSource(8 * UNIT);
  writeFileSync(join(dir, digest), Buffer.alloc(8 * UNIT, 0x55));
  const cache = await openCache(t, dir);
  const blob = await open(cache);
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await blob.close();
});

for (const [what, damage] of [
  ['an empty sidecar', () => Buffer.alloc(0)],
  ['a header that is cut short', (bytes: Buffer) => bytes.subarray(0, 20)],
  ['another version', (bytes: Buffer) => (bytes.writeUInt32LE(2, 8), bytes)],
  ['a flipped bit in the header', (bytes: Buffer) => (bytes.writeUInt8(bytes.readUInt8(17) ^ 1, 17), bytes)],
  ['units missing at the end', (bytes: Buffer) => bytes.subarray(0, bytes.length - 1)],
] as const)
  test(`BlobCache starts over with ${what}`, async (t) => {
    const dir = tempDir(t);
    const { source, digest, open } = makeSource(8 * UNIT);
    const cache = await openCache(t, dir);
    const blob = await open(cache);
    await readRange(blob, 0, blob.size);
    await blob.close();
    const path = join(dir, `${digest}.units`);
    writeFileSync(path, damage(readFileSync(path)));
    writeFileSync(join(dir, digest), Buffer.alloc(8 * UNIT, 0x55));
    const again = await open(cache);
    assert.equal(again.presentBytes, 0);
    assert.deepEqual(await readRange(again, 0, again.size), source.plain);
    await again.close();
  });

test('BlobCache starts over when the blob has another size', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir);
  const [short, long] = [makeSource(3 * UNIT, 1), makeSource(5 * UNIT, 1)];
  const url = 'http://x/mutable';
  const a = await cache.openBlob({ url, size: short.source.size, source: short.source });
  await readRange(a, 0, a.size);
  await assert.rejects(cache.openBlob({ url, size: long.source.size, source: long.source }), {
    code: 'OBD_CACHE_IO',
    expected: 3 * UNIT,
    actual: 5 * UNIT,
  });
  await a.close();
  const b = await cache.openBlob({ url, size: long.source.size, source: long.source });
  assert.deepEqual(await readRange(b, 0, b.size), long.source.plain);
  await b.close();
});

test('BlobCache notices data that somebody else took away between two uses', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir);
  const { source, digest, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  await readRange(blob, 0, blob.size);
  await blob.close();
  // As the reference evicts, and then makes the file its size again.
  truncateSync(join(dir, digest), 2 * UNIT);
  truncateSync(join(dir, digest), 8 * UNIT);
  const again = await open(cache);
  assert.equal(again.presentBytes, 2 * UNIT);
  assert.deepEqual(await readRange(again, 0, again.size), source.plain);
  await again.close();
});

test('CachedBlob.read() fetches again when its file was cut while open', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir);
  const { source, digest, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  await readRange(blob, 0, blob.size);
  await cache.flush();
  truncateSync(join(dir, digest), 2 * UNIT);
  assert.deepEqual(await readRange(blob, UNIT, 4 * UNIT), source.plain.slice(UNIT, 5 * UNIT));
  await blob.close();
});

test('BlobCache checks the digest of a complete blob once, and remembers', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir);
  const { open } = makeSource(300 * UNIT + 1);
  const blob = await open(cache);
  assert.equal(blob.verified, false);
  await readRange(blob, 0, blob.size);
  await cache.flush();
  await cache.verified();
  assert.equal(blob.verified, true);
  await blob.close();
  const again = await open(cache);
  assert.equal(again.verified, true);
  await again.refetch(0, 1);
  assert.equal(again.verified, false);
  await cache.flush();
  await cache.verified();
  assert.equal(again.verified, true);
  await again.close();
});

test('BlobCache finds bytes that changed on disk when the blob is complete, and fetches all again', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir);
  const { source, digest, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  await readRange(blob, 0, 7 * UNIT);
  await cache.flush();
  const fd = openSync(join(dir, digest), 'r+');
  writeSync(fd, Buffer.from([source.plain[5000] === 0 ? 1 : 0]), 0, 1, 5000);
  closeSync(fd);
  await readRange(blob, 7 * UNIT, 1);
  await cache.flush();
  await cache.verified();
  assert.equal(blob.presentBytes, 0);
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await cache.flush();
  await cache.verified();
  assert.equal(blob.verified, true);
  await blob.close();
});

test('CachedBlob.read() fails with an address when the source sends other bytes than the digest names', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, digest, open } = makeSource(8 * UNIT);
  source.onRead = (_, into) => () => void into.fill(1);
  const blob = await open(cache);
  for (let round = 0; round < 2; round++) {
    await readRange(blob, 0, blob.size);
    await cache.flush();
    await cache.verified();
  }
  await assert.rejects(readRange(blob, 0, 1), {
    code: 'OBD_REGISTRY_DIGEST',
    source: digest,
    expected: digest,
  });
  await blob.close();
});

test('BlobCache does not compare unpacked bytes with the digest of the packed ones', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source } = makeSource(8 * UNIT);
  const blob = await cache.openBlob({
    digest: `sha256:${'1'.repeat(64)}`,
    digestNamesBytes: false,
    url: 'http://x/',
    size: source.size,
    source,
  });
  for (let round = 0; round < 3; round++) {
    assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
    await cache.flush();
    await cache.verified();
  }
  assert.equal(source.bytesRead, blob.size);
  await blob.close();
});

test('BlobCache reads from the source, with one warning, when a blob has no usable file', async (t) => {
  const dir = tempDir(t);
  const warnings: string[] = [];
  const log = {
    ...silentLogger,
    warn: (_: unknown, message: string) => void warnings.push(message),
  } as Logger;
  const cache = await openCache(t, dir, { log });
  const sources = [1, 2, 3].map((seed) => makeSource(8 * UNIT, seed));
  for (const { digest } of sources) mkdirSync(join(dir, digest));
  for (const { source, open } of sources) {
    const blob = await open(cache);
    assert.equal(blob.localFile(), undefined);
    assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
    await blob.refetch(0, 1);
    assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
    await blob.close();
  }
  assert.equal(warnings.filter((text) => text.includes('cannot be opened')).length, 1);
  assert.ok(existsSync(join(dir, sources[0]?.digest ?? '')));
});

test('BlobCache.open() refuses a directory that is not one, by name', async (t) => {
  const dir = join(tempDir(t), 'file');
  writeFileSync(dir, '');
  await assert.rejects(BlobCache.open({ dir, capacity: 1, unitSize: UNIT, log: silentLogger }), {
    code: 'OBD_IO_EXISTS',
    source: dir,
  });
});
