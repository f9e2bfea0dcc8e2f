import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { localFileOf } from '../../src/blob/index.js';
import type { CacheStats } from '../../src/cache/index.js';
import { makeSource, openCache, readRange, tempDir, UNIT } from './cache-fixture.js';
import { BLOBS, BLOB_SIZE, CAPACITY, shareSource } from './share-blobs.js';

/** Enough to hit most moments of a fill, a commit and an eviction; OBD_TEST_ROUNDS for a longer look. */
const ROUNDS = Number(process.env['OBD_TEST_ROUNDS'] ?? 50);

interface Child {
  readonly process: ChildProcess;
  readonly output: () => string;
  readonly exited: Promise<unknown>;
}

async function start(dir: string, seed: number): Promise<Child> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'hammer-child.js'), dir, String(seed)], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let text = '';
  const ready = new Promise<void>((resolve) => {
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
        if (text.includes('ready')) resolve();
      });
  });
  const exited = once(child, 'close');
  child.stdin.on('error', () => undefined);
  await Promise.race([ready, exited]);
  return { process: child, output: () => text, exited };
}

async function finish(child: Child): Promise<CacheStats> {
  child.process.stdin?.write('end');
  await child.exited;
  assert.equal(child.process.exitCode, 0, child.output());
  return JSON.parse(child.output().split('\n').at(-2) ?? '') as CacheStats;
}

test(`BlobCache serves right bytes while two processes share it and one is killed ${ROUNDS} times`, async (t) => {
  const dir = tempDir(t);
  const steady = await start(dir, 1);
  t.after(() => steady.process.kill('SIGKILL'));
  let killed = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const victim = await start(dir, round + 2);
    await sleep((round * 37) % 60);
    for (const child of [victim, steady]) assert.equal(child.process.exitCode, null, child.output());
    victim.process.kill('SIGKILL');
    await victim.exited;
    killed++;
  }
  assert.equal(killed, ROUNDS);
  const other = await start(dir, 10_000);
  t.after(() => other.process.kill('SIGKILL'));
  await sleep(500);
  const stats = [await finish(steady), await finish(other)];
  assert.ok(
    stats.every(({ fetches }) => fetches > 0) && stats.some(({ evictedBytes }) => evictedBytes > 0),
    JSON.stringify(stats),
  );

  // A third process, now: every unit that is said to be there is right.
  const cache = await openCache(t, dir, { capacity: CAPACITY });
  let present = 0;
  for (let i = 0; i < BLOBS; i++) {
    const { source, open } = shareSource(i);
    const blob = await open(cache);
    const presence = localFileOf(blob)?.presence ?? [];
    for (let unit = 0; unit < presence.length; unit++) {
      if (presence[unit] !== 1) continue;
      present++;
      const length = Math.min(UNIT, BLOB_SIZE - unit * UNIT);
      assert.deepEqual(
        await readRange(blob, unit * UNIT, length),
        source.plain.slice(unit * UNIT, unit * UNIT + length),
      );
    }
    assert.equal(source.requests.length, 0);
    await blob.close();
  }
  assert.ok(present > 0);
  const used = readdirSync(dir)
    .filter((name) => !name.endsWith('.units'))
    .reduce((sum, name) => sum + statSync(join(dir, name)).blocks * 512, 0);
  assert.ok(used <= CAPACITY * 1.3, `two processes used ${used} of ${CAPACITY}`);
});

test('BlobCache sees what another process has filled without fetching it', async (t) => {
  const dir = tempDir(t);
  const [one, two] = [await openCache(t, dir), await openCache(t, dir)];
  const { source, open } = shareSource(0);
  const [a, b] = [await open(one), await open(two)];
  source.requests.length = 0;
  await readRange(a, 0, 3 * UNIT);
  await one.flush();
  assert.deepEqual(await readRange(b, UNIT, UNIT), source.plain.slice(UNIT, 2 * UNIT));
  assert.equal(source.bytesRead, 3 * UNIT);
  await Promise.all([a.close(), b.close()]);
});

test('BlobCache with another unit size joins a blob that is in use, and starts over when it is not', async (t) => {
  const dir = tempDir(t);
  const one = await openCache(t, dir, { unitSize: 4 * UNIT });
  const two = await openCache(t, dir, { unitSize: 2 * UNIT });
  const { source, open } = shareSource(1);
  const a = await open(one);
  await readRange(a, 0, UNIT);
  const b = await open(two);
  assert.equal(b.unitSize, 4 * UNIT);
  assert.deepEqual(await readRange(b, 0, 3 * UNIT), source.plain.slice(0, 3 * UNIT));
  await Promise.all([a.close(), b.close()]);
  const c = await open(two);
  assert.equal(c.unitSize, 2 * UNIT);
  assert.equal(c.presentBytes, 0);
  assert.deepEqual(await readRange(c, 0, 3 * UNIT), source.plain.slice(0, 3 * UNIT));
  await c.close();
});

test('BlobCache fetches what is foretold in small units, ahead of nobody, and around other misses as ever', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { unitSize: 8 * UNIT });
  const { source, digest } = makeSource(20 * UNIT, 3);
  const open = (unitSize?: number) =>
    cache.openBlob({ digest, url: 'u', size: source.size, source: async () => source, unitSize });
  const a = await open(UNIT);
  assert.equal(a.unitSize, UNIT);
  const expected = new Uint8Array(20);
  expected.fill(1, 1, 4);
  a.expect(expected);
  assert.equal(await a.prefetch(UNIT, 2 * UNIT), 2 * UNIT);
  await cache.flush();
  assert.equal(await a.prefetch(UNIT, 2 * UNIT), 0, 'it is here');
  await readRange(a, 3 * UNIT, UNIT);
  assert.equal(source.bytesRead, 3 * UNIT, 'a miss that was foretold fetches nothing around it');
  await readRange(a, 9 * UNIT, UNIT);
  assert.equal(source.bytesRead, 11 * UNIT, 'any other fetches as much as the cache is set to');
  await readRange(a, 8 * UNIT, 8 * UNIT);
  assert.equal(source.bytesRead, 11 * UNIT);
  await a.close();
  const b = await open();
  assert.equal(b.unitSize, UNIT, 'what is here stays in use');
  assert.equal(b.presentBytes, 11 * UNIT);
  await b.close();
});
