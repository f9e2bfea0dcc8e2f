/** When the cache makes durable what it has fetched, and that it keeps no clock going when there is nothing to do. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeSource, openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

/** No other timer has this time. */
const INTERVAL_MS = 97;

/** How many of the cache's timers were set so far; there are no others of this time. */
function countTimers(t: TestContext): () => number {
  const set = t.mock.method(globalThis, 'setTimeout');
  const repeated = t.mock.method(globalThis, 'setInterval');
  return () =>
    [...set.mock.calls, ...repeated.mock.calls].filter((call) => call.arguments[1] === INTERVAL_MS).length;
}

/** Units that a crash would leave, by the sidecar of the only blob. */
function durableUnits(dir: string, count: number): number {
  const name = readdirSync(dir).find((file) => file.endsWith('.units')) ?? '';
  return readFileSync(join(dir, name))
    .subarray(-count)
    .filter((byte) => byte === 1).length;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (condition()) return;
    await sleep(5);
  }
  assert.fail(`Waited 5 s for: ${what}`);
}

test('what is fetched becomes durable after an interval, and no timer is set without need', async (t) => {
  const timers = countTimers(t);
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { commitIntervalMs: INTERVAL_MS });
  const { open: openBlob } = makeSource(8 * UNIT);
  const blob = await openBlob(cache);
  await sleep(3 * INTERVAL_MS);
  assert.equal(timers(), 0, 'nothing to commit');

  const began = performance.now();
  await readRange(blob, 0, 3 * UNIT);
  await until('the first units to be durable', () => durableUnits(dir, 8) === 3);
  assert.ok(performance.now() - began >= INTERVAL_MS - 1, 'not before the interval is over');
  await sleep(3 * INTERVAL_MS);
  assert.equal(timers(), 1, 'one, and none after the commit');

  await readRange(blob, 5 * UNIT, UNIT);
  await until('another unit to be durable', () => durableUnits(dir, 8) === 4);
  assert.equal(timers(), 2);
  await readRange(blob, 6 * UNIT, UNIT);
  await cache.flush();
  assert.equal(durableUnits(dir, 8), 5);
  await sleep(2 * INTERVAL_MS);
  assert.equal(timers(), 3, 'a flush leaves no timer');
  await blob.close();
});

/** Has every sync of a file do `act` first, until the test ends. */
async function onSync(t: TestContext, dir: string, act: () => Promise<void>): Promise<void> {
  const some = await open(join(dir, 'some'), 'w');
  const prototype = Object.getPrototypeOf(some) as FileHandle;
  await some.close();
  // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its `this`, and put back
  const original = prototype.datasync;
  t.after(() => {
    Object.assign(prototype, { datasync: original });
  });
  Object.assign(prototype, {
    async datasync(this: FileHandle) {
      await act();
      await original.call(this);
    },
  });
}

test('what is fetched while a round is under way has the next one, after it', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { commitIntervalMs: INTERVAL_MS });
  const { open: openBlob } = makeSource(8 * UNIT);
  const blob = await openBlob(cache);
  let running = 0;
  let most = 0;
  let rounds = 0;
  await onSync(t, dir, async () => {
    rounds++;
    most = Math.max(most, ++running);
    await sleep(3 * INTERVAL_MS);
    running--;
  });
  await readRange(blob, 0, UNIT);
  await until('a round to begin', () => running === 1);
  await readRange(blob, 4 * UNIT, UNIT);
  await until('both to be durable', () => durableUnits(dir, 8) === 2);
  assert.deepEqual([rounds, most], [2, 1]);
  await blob.close();
});

test('a round that fails is not repeated: what it was for is forgotten', async (t) => {
  const timers = countTimers(t);
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { commitIntervalMs: INTERVAL_MS });
  const { open: openBlob } = makeSource(8 * UNIT);
  const blob = await openBlob(cache);
  let rounds = 0;
  await onSync(t, dir, () => {
    rounds++;
    return Promise.reject(Object.assign(new Error('EIO: made up'), { code: 'EIO', errno: -5 }));
  });
  await readRange(blob, 0, UNIT);
  await until('a round to fail', () => cache.stats.diskFailures === 1);
  await sleep(4 * INTERVAL_MS);
  assert.deepEqual([rounds, timers(), blob.presentBytes], [1, 1, 0]);
  await blob.close();
});

test('a cache that is closed has no timer left, and all that was fetched is durable', async (t) => {
  const dir = tempDir(t);
  const { open: openBlob } = makeSource(8 * UNIT);
  const cache = await openCache(t, dir, { commitIntervalMs: INTERVAL_MS });
  const blob = await openBlob(cache);
  await readRange(blob, 0, 2 * UNIT);
  await blob.close();
  await cache.close();
  assert.equal(durableUnits(dir, 8), 2);
  const timers = countTimers(t);
  await sleep(2 * INTERVAL_MS);
  assert.equal(timers(), 0);
});
