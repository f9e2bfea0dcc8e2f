import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { makeSource, openCache, readRange, UNIT } from '../cache/cache-fixture.js';

const skip = process.getuid?.() !== 0 && 'mounting needs root';

/** A file system of `bytes`, for as long as the test runs. */
function smallDisk(t: TestContext, bytes: number): string {
  const dir = mkdtempSync(join(tmpdir(), 'obd-small-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'obd-small', dir]);
  t.after(() => {
    execFileSync('umount', [dir]);
    rmSync(dir, { recursive: true });
  });
  return dir;
}

test('BlobCache evicts when the disk is smaller than its capacity', { skip }, async (t) => {
  const dir = smallDisk(t, 100 * UNIT);
  const cache = await openCache(t, dir, { minFree: 10 * UNIT });
  const { source, open } = makeSource(300 * UNIT);
  const blob = await open(cache);
  for (let round = 0; round < 2; round++) assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await cache.flush();
  const { bavail, bsize } = statfsSync(dir);
  assert.ok(bavail * bsize >= 10 * UNIT, `${bavail * bsize} bytes free`);
  assert.ok(cache.stats.evictedBytes > 0);
  assert.equal(cache.stats.diskFailures, 0);
  await blob.close();
  await cache.close();
});

test('CachedBlob reads go on when somebody else fills the disk', { skip }, async (t) => {
  const dir = smallDisk(t, 100 * UNIT);
  const cache = await openCache(t, dir, { minFree: 0 });
  const { source, open } = makeSource(80 * UNIT);
  const blob = await open(cache);
  await readRange(blob, 0, 10 * UNIT);
  await cache.flush();
  const { bavail, bsize } = statfsSync(dir);
  writeFileSync(join(dir, 'other'), Buffer.alloc(bavail * bsize));
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await cache.flush();
  assert.ok(cache.stats.diskFailures > 0, 'the disk took it all: nothing was tested');
  assert.ok(cache.stats.unstoredBytes > 0);
  rmSync(join(dir, 'other'));
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await blob.close();
  await cache.close();

  const again = await openCache(t, dir, { minFree: 0 });
  const after = await open(again);
  assert.deepEqual(await readRange(after, 0, after.size), source.plain);
  await after.close();
  await again.close();
});
