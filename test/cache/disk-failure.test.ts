import assert from 'node:assert/strict';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { Logger } from '../../src/log/index.js';
import { silentLogger } from '../../src/log/index.js';
import { DiskHealth } from '../../src/cache/disk-health.js';
import { makeSource, openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

/** Makes an operation of every file handle fail from now on, until the returned function is called. */
async function breakDisk(
  t: TestContext,
  dir: string,
  operation: 'read' | 'write' | 'datasync',
  code: string,
): Promise<() => void> {
  const some = await open(join(dir, 'some'), 'w');
  const prototype = Object.getPrototypeOf(some) as FileHandle;
  await some.close();
  // eslint-disable-next-line @typescript-eslint/unbound-method -- only put back
  const original = prototype[operation];
  const undo = (): void => {
    Object.assign(prototype, { [operation]: original });
  };
  t.after(undo);
  Object.assign(prototype, {
    [operation]: () => Promise.reject(Object.assign(new Error(`${code}: made up`), { code, errno: -5 })),
  });
  return undo;
}

function countingLog(): { log: Logger; warnings: string[] } {
  const warnings: string[] = [];
  return {
    warnings,
    log: { ...silentLogger, warn: (_: unknown, message: string) => void warnings.push(message) } as Logger,
  };
}

for (const [operation, code] of [
  ['write', 'ENOSPC'],
  ['write', 'EIO'],
  ['datasync', 'EIO'],
  ['read', 'EIO'],
] as const)
  test(`CachedBlob reads go on, with one warning, when ${operation} fails with ${code}`, async (t) => {
    const { log, warnings } = countingLog();
    const dir = tempDir(t);
    const cache = await openCache(t, dir, { log });
    const { source, open } = makeSource(64 * UNIT);
    const blob = await open(cache);
    await readRange(blob, 0, 4 * UNIT);
    if (operation !== 'datasync') await cache.flush();
    const repair = await breakDisk(t, dir, operation, code);
    for (let unit = 0; unit < 16; unit++) {
      assert.deepEqual(
        await readRange(blob, unit * UNIT, 2 * UNIT),
        source.plain.slice(unit * UNIT, (unit + 2) * UNIT),
      );
      await cache.flush();
    }
    assert.equal(warnings.length, 1, warnings.join('; '));
    repair();
    assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
    await blob.close();
    await cache.close();

    // Nothing wrong was left behind.
    const again = await openCache(t, dir);
    const after = await open(again);
    assert.deepEqual(await readRange(after, 0, after.size), source.plain);
    await after.close();
  });

test('BlobCache forgets units whose sync failed: nobody knows what the disk has of them', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { commitIntervalMs: 1e6 });
  const { source, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  await readRange(blob, 0, 4 * UNIT);
  const repair = await breakDisk(t, dir, 'datasync', 'EIO');
  await cache.flush();
  repair();
  assert.equal(blob.presentBytes, 0);
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await blob.close();
});

test('DiskHealth lets the disk rest, then tries again, and counts the warnings it swallows', () => {
  const fields: unknown[] = [];
  const log = { ...silentLogger, warn: (f: unknown) => void fields.push(f) } as Logger;
  let now = 0;
  const health = new DiskHealth(log, () => now);
  assert.equal(health.usable, true);
  for (let i = 0; i < 5; i++) health.failed('write', '/x', new Error('full'));
  assert.equal(health.usable, false);
  assert.equal(fields.length, 1);
  now = 30_000;
  assert.equal(health.usable, true);
  now = 60_000;
  health.failed('write', '/x', new Error('full'));
  assert.equal((fields[1] as { silenced: number }).silenced, 4);
  assert.equal(health.failures, 6);
});
