import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { localFileOf, localOffset, refetchableOf } from '../../src/blob/index.js';
import type { SourceBlob } from '../support/source-blob.js';
import { makeSource, openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

test('CachedBlob.read() fetches whole units once and serves them from disk after that', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, open } = makeSource(10 * UNIT + 100);
  const blob = await open(cache);
  assert.deepEqual(await readRange(blob, 5000, 10), source.plain.slice(5000, 5010));
  assert.deepEqual(source.requests, [[UNIT, UNIT]]);
  assert.deepEqual(await readRange(blob, UNIT, UNIT), source.plain.slice(UNIT, 2 * UNIT));
  assert.deepEqual(await readRange(blob, 10 * UNIT, 100), source.plain.slice(10 * UNIT));
  assert.deepEqual(source.requests.slice(1), [[10 * UNIT, 100]], 'the last unit is short');
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  assert.equal(source.bytesRead, blob.size, 'no byte is fetched twice');
  assert.equal(cache.stats.fetchedBytes, blob.size);
  await blob.close();
  assert.equal(source.closed, 1);
});

test('CachedBlob.read() fetches neighbouring units in one request, up to the bound', async (t) => {
  const cache = await openCache(t, tempDir(t), { maxRunBytes: 4 * UNIT, maxRuns: 1 });
  const { source, open } = makeSource(32 * UNIT);
  const blob = await open(cache);
  // Misses gather while the one read that is allowed is under way, however slow the machine is.
  source.delayMs = 500;
  const far = readRange(blob, 31 * UNIT, 1);
  while (source.requests.length === 0) await sleep(1);
  const misses = [0, 1, 2, 9, 3].map((unit) => readRange(blob, unit * UNIT + 7, 1));
  await far;
  source.delayMs = 0;
  await Promise.all(misses);
  assert.deepEqual(source.requests.slice(1), [
    [0, 4 * UNIT],
    [9 * UNIT, UNIT],
  ]);
  await readRange(blob, 10 * UNIT, 9 * UNIT);
  assert.deepEqual(
    source.requests.slice(3).map(([, length]) => length / UNIT),
    [4, 4, 1],
  );
  await blob.close();
});

test('CachedBlob.read() lets concurrent readers of a unit share one request', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, open } = makeSource(8 * UNIT);
  const [one, two] = [await open(cache), await open(cache)];
  source.delayMs = 20;
  const reads = Array.from({ length: 40 }, (_, i) => readRange(i % 2 ? one : two, i * 100, 100));
  const all = await Promise.all(reads);
  all.forEach((bytes, i) => {
    assert.deepEqual(bytes, source.plain.slice(i * 100, i * 100 + 100));
  });
  assert.equal(source.requests.length, 1);
  await Promise.all([one.close(), two.close()]);
});

test('CachedBlob.read() aborts one caller only, and the request when nobody is left', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  source.delayMs = 30;
  const stop = new AbortController();
  const gone = blob.read(10, new Uint8Array(10), { signal: stop.signal });
  const stays = readRange(blob, 20, 10);
  setTimeout(() => {
    stop.abort();
  }, 10);
  await assert.rejects(gone, { code: 'OBD_ABORTED' });
  assert.deepEqual(await stays, source.plain.slice(20, 30));
  assert.equal(source.aborted, 0);

  const all = new AbortController();
  const reads = [1, 2].map((i) => blob.read(4 * UNIT + i, new Uint8Array(10), { signal: all.signal }));
  setTimeout(() => {
    all.abort();
  }, 10);
  for (const read of reads) await assert.rejects(read, { code: 'OBD_ABORTED' });
  await blob.close();
  assert.equal(source.aborted, 1);
});

test('CachedBlob.read() asks again after an aborted request', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  source.delayMs = 20;
  const stop = new AbortController();
  const gone = blob.read(0, new Uint8Array(10), { signal: stop.signal });
  await new Promise((resolve) => setTimeout(resolve, 5));
  stop.abort();
  await assert.rejects(gone, { code: 'OBD_ABORTED' });
  assert.deepEqual(await readRange(blob, 0, 10), source.plain.slice(0, 10));
  await blob.close();
});

test('CachedBlob.read() passes the failure of the source on, and tries again next time', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  source.onRead = () => {
    throw new Error('no route');
  };
  await assert.rejects(readRange(blob, 0, 10), /no route/);
  source.onRead = () => undefined;
  assert.deepEqual(await readRange(blob, 0, 10), source.plain.slice(0, 10));
  await blob.close();
});

test('CachedBlob.read() uses its own source when that of another reader fails', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const bad = makeSource(8 * UNIT);
  const good = makeSource(8 * UNIT);
  const [one, two] = [await bad.open(cache), await good.open(cache)];
  bad.source.delayMs = 10;
  bad.source.onRead = () => {
    throw new Error('denied');
  };
  const results = await Promise.allSettled([readRange(one, 0, 10), readRange(two, 5, 10)]);
  assert.equal(results[0].status, 'rejected');
  assert.equal(results[1].status, 'fulfilled');
  await Promise.all([one.close(), two.close()]);
});

test('CachedBlob.localFile() shows units to other readers of the file as they are stored', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  const file = localFileOf(blob);
  assert.ok(file?.presence && file.touched);
  assert.ok(file.presence.buffer instanceof SharedArrayBuffer);
  assert.equal(localOffset(file, UNIT, 10), -1);
  await readRange(blob, UNIT, 1);
  await cache.flush();
  assert.equal(localOffset(file, UNIT, UNIT), UNIT);
  assert.equal(localOffset(file, UNIT, UNIT + 1), -1);
  await blob.close();
});

test('CachedBlob.refetch() replaces the local copy of a range', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  source.onRead = (_, into) => () => into.fill(0xee, 0, 1);
  assert.deepEqual(await readRange(blob, 0, 1), Uint8Array.of(0xee));
  source.onRead = () => undefined;
  assert.equal(refetchableOf(blob), blob);
  await blob.refetch(100, 5);
  assert.deepEqual(await readRange(blob, 0, UNIT), source.plain.slice(0, UNIT));
  assert.equal(source.requests.length, 2);
  await Promise.all([blob.refetch(0, 5), blob.refetch(1, 5)]);
  assert.equal(source.requests.length, 2, 'readers that noticed the same fault fetch once');
  await blob.close();
});

test('CachedBlob.setCheck() has a bad unit fetched again once, then reports it', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  let wrong = 1;
  source.onRead = (offset, into) =>
    offset <= 2 * UNIT && wrong-- > 0 ? () => void into.fill(0, 2 * UNIT - offset) : undefined;
  blob.setCheck((start, bytes) => {
    if (bytes[0] === 0 && bytes[1] === 0) throw new Error(`zeroes at ${start}`);
  });
  assert.deepEqual(await readRange(blob, UNIT, 3 * UNIT), source.plain.slice(UNIT, 4 * UNIT));
  assert.equal(source.requests.length, 3, 'one run, two units again');
  source.onRead = (_, into) => () => void into.fill(0, 0, UNIT);
  await assert.rejects(readRange(blob, 5 * UNIT, 2 * UNIT), {
    code: 'OBD_FORMAT_CHECKSUM',
    offset: 5 * UNIT,
  });
  source.onRead = () => undefined;
  const requests = source.requests.length;
  assert.deepEqual(await readRange(blob, 6 * UNIT, UNIT), source.plain.slice(6 * UNIT, 7 * UNIT));
  assert.equal(source.requests.length, requests, 'the good unit of the run was kept');
  assert.deepEqual(await readRange(blob, 5 * UNIT, UNIT), source.plain.slice(5 * UNIT, 6 * UNIT));
  await blob.close();
});

test('CachedBlob reads without touching the source once all is cached', async (t) => {
  const dir = tempDir(t);
  const { source, open, digest } = makeSource(8 * UNIT);
  const cache = await openCache(t, dir);
  const blob = await open(cache);
  await readRange(blob, 0, blob.size);
  await blob.close();
  await cache.close();
  const again = await openCache(t, dir);
  const offline = await again.openBlob({
    digest,
    url: 'http://gone.test/',
    size: source.size,
    source: () => Promise.reject(new Error('offline')),
  });
  assert.deepEqual(await readRange(offline, 0, offline.size), source.plain);
  await offline.close();
});

test('CachedBlob refuses ranges outside of it, and reads after close', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { open } = makeSource(UNIT);
  const blob = await open(cache);
  await assert.rejects(readRange(blob, UNIT - 1, 2), RangeError);
  await assert.rejects(blob.refetch(UNIT, 1), RangeError);
  await blob.close();
  await blob.close();
  await assert.rejects(readRange(blob, 0, 1), TypeError);
});

test('CachedBlob refuses a source of another size', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, digest } = makeSource(UNIT);
  const blob = await cache.openBlob({ digest, url: 'http://x/', size: UNIT + 1, source: async () => source });
  await assert.rejects(readRange(blob, 0, 1), {
    code: 'OBD_REGISTRY_RESPONSE',
    expected: UNIT + 1,
    actual: UNIT,
  });
  await blob.close();
});

/** Holds a source's reads until the returned function is called. */
function holdReads(source: SourceBlob): () => void {
  let release = (): void => undefined;
  source.hold = new Promise((resolve) => (release = resolve));
  return release;
}

test('CachedBlob.close() does not wait for other readers of the blob, nor disturb them', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const [made, same] = [makeSource(64 * UNIT), makeSource(64 * UNIT)];
  const release = holdReads(made.source);
  const [one, two, three] = [await made.open(cache), await same.open(cache), await same.open(cache)];
  const reads = [0, 9, 18].map((unit) => readRange(one, unit * UNIT, UNIT));
  await Promise.all([two.close(), three.close()]);
  release();
  await Promise.all(reads);
  await one.close();
});

test('CachedBlob.read() asks a busy source for few and larger things, the oldest first', async (t) => {
  const cache = await openCache(t, tempDir(t), { maxRuns: 2, maxRunBytes: 8 * UNIT });
  const { source, open } = makeSource(64 * UNIT);
  const blob = await open(cache);
  const release = holdReads(source);
  let busy = 0;
  let busiest = 0;
  source.onRead = () => {
    busiest = Math.max(busiest, ++busy);
    return () => {
      busy--;
    };
  };
  const reads = [0, 20].map((unit) => readRange(blob, unit * UNIT, 1));
  const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
  while (source.requests.length < 2) await turn();
  for (const unit of [50, 31, 30, 32, 40, 33]) {
    reads.push(readRange(blob, unit * UNIT, 1));
    await turn();
  }
  assert.equal(source.requests.length, 2);
  release();
  await Promise.all(reads);
  assert.deepEqual(
    source.requests.map(([offset, length]) => [offset / UNIT, length / UNIT]),
    [
      [0, 1],
      [20, 1],
      [50, 1],
      [30, 4],
      [40, 1],
    ],
  );
  assert.equal(busiest, 2);
  await blob.close();
});

test('CachedBlob.refetch() is waited for by all who noticed the fault, and aborts one only', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { source, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  source.onRead = (_, into) => () => into.fill(0xee);
  await readRange(blob, 0, 2 * UNIT);
  await cache.flush();
  source.onRead = () => undefined;
  source.delayMs = 20;
  const stop = new AbortController();
  const results = Promise.allSettled([
    blob.refetch(0, 10, { signal: stop.signal }),
    ...[0, 100, UNIT].map(async (offset) => {
      await blob.refetch(offset, 10);
      assert.deepEqual(await readRange(blob, offset, 10), source.plain.slice(offset, offset + 10));
    }),
  ]);
  stop.abort();
  const [aborted, ...others] = await results;
  assert.equal(aborted.status, 'rejected');
  assert.ok(
    others.every(({ status }) => status === 'fulfilled'),
    JSON.stringify(others),
  );
  assert.equal(source.bytesRead, 4 * UNIT);
  await blob.close();
});
