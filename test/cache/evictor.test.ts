import assert from 'node:assert/strict';
import { readdirSync, readSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { localFileOf, localOffset } from '../../src/blob/index.js';
import type { CachedBlob } from '../../src/cache/index.js';
import { addon } from '../../src/native/addon.js';
import { makeSource, openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

function diskBytes(dir: string): number {
  return readdirSync(dir)
    .filter((name) => !name.endsWith('.units'))
    .reduce((sum, name) => sum + statSync(join(dir, name)).blocks * 512, 0);
}

function presentUnits(blob: CachedBlob): number[] {
  const presence = localFileOf(blob)?.presence ?? new Uint8Array();
  return [...presence.keys()].filter((unit) => presence[unit] === 1);
}

test('BlobCache evicts the units that were not used for longest', async (t) => {
  const dir = tempDir(t);
  let now = 1_000_000;
  const cache = await openCache(t, dir, { capacity: 40 * UNIT, now: () => now });
  const { source, open } = makeSource(100 * UNIT);
  const blob = await open(cache);
  for (let unit = 0; unit < 36; unit++) {
    await readRange(blob, unit * UNIT, UNIT);
    await cache.flush();
    now += 1000;
  }
  // A worker uses unit 3 without asking: the file says where, and remembers that it was asked.
  const file = localFileOf(blob);
  assert.ok(file);
  assert.equal(localOffset(file, 3 * UNIT, 1), 3 * UNIT);
  await readRange(blob, 5 * UNIT, 1);
  now += 1000;
  for (let unit = 36; unit < 48; unit++) {
    await readRange(blob, unit * UNIT, UNIT);
    await cache.flush();
  }
  const present = presentUnits(blob);
  assert.ok(present.includes(3) && present.includes(5) && present.includes(47), `present: ${present.join()}`);
  assert.ok(
    !present.includes(0) && !present.includes(1) && !present.includes(4),
    `present: ${present.join()}`,
  );
  assert.ok(diskBytes(dir) <= 42 * UNIT, `${diskBytes(dir)} on disk`);
  assert.ok(cache.stats.evictedBytes > 0);
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await blob.close();
});

test('BlobCache takes closed blobs, the oldest first, and removes files that hold nothing', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { capacity: 40 * UNIT });
  const blobs = [1, 2, 3, 4].map((seed) => makeSource(12 * UNIT, seed));
  for (const [i, { open, digest }] of blobs.slice(0, 3).entries()) {
    const blob = await open(cache);
    await readRange(blob, 0, 12 * UNIT);
    await blob.close();
    const then = new Date(Date.now() - (10 - i) * 3_600_000);
    utimesSync(join(dir, `${digest}.units`), then, then);
  }
  const last = blobs[3];
  assert.ok(last);
  const blob = await last.open(cache);
  await readRange(blob, 0, 6 * UNIT);
  await cache.flush();
  const sizes = blobs.map(
    ({ digest }) => statSync(join(dir, digest), { throwIfNoEntry: false })?.blocks ?? 0,
  );
  assert.ok((sizes[0] ?? 0) < 12 * 8, `oldest blob still has all its ${sizes[0]} sectors`);
  assert.deepEqual(sizes.slice(1, 3), [12 * 8, 12 * 8]);
  await readRange(blob, 6 * UNIT, 6 * UNIT);
  await cache.flush();
  assert.ok(diskBytes(dir) <= 42 * UNIT);
  await blob.close();
});

test('BlobCache forgets a blob of which nothing was stored', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir);
  const blob = await makeSource(UNIT).open(cache);
  assert.equal(readdirSync(dir).length, 2);
  await blob.close();
  assert.deepEqual(readdirSync(dir), []);
});

test('BlobCache gives space back only after the workers have passed', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { capacity: 20 * UNIT });
  const { source, open } = makeSource(60 * UNIT);
  const blob = await open(cache);
  await readRange(blob, 0, 18 * UNIT);
  await cache.flush();
  const file = localFileOf(blob);
  assert.ok(file?.presence);
  const planned = localOffset(file, 0, UNIT);
  assert.equal(planned, 0);
  let passed = (): void => undefined;
  cache.setQuiesce(() => new Promise((resolve) => (passed = resolve)));
  for (let unit = 20; unit < 30; unit++) await readRange(blob, unit * UNIT, UNIT);
  while (file.presence[0] === 1) await sleep(5);
  await sleep(50);
  // The plan was made before the eviction began: its bytes are still there.
  const bytes = new Uint8Array(UNIT);
  assert.equal(readSync(file.fd, bytes, 0, UNIT, planned), UNIT);
  assert.deepEqual(bytes, source.plain.slice(0, UNIT));
  cache.setQuiesce(async () => undefined);
  passed();
  await cache.flush();
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await blob.close();
});

test('BlobCache does not take units from a blob that another process has open', async (t) => {
  const dir = tempDir(t);
  const other = await openCache(t, dir, { capacity: 100 * UNIT });
  const cache = await openCache(t, dir, { capacity: 20 * UNIT });
  const shared = makeSource(30 * UNIT, 1);
  const mine = makeSource(30 * UNIT, 2);
  const theirs = await shared.open(other);
  await readRange(theirs, 0, 15 * UNIT);
  const [a, b] = [await shared.open(cache), await mine.open(cache)];
  assert.deepEqual(await readRange(b, 0, b.size), mine.source.plain);
  await cache.flush();
  assert.equal(theirs.presentBytes, 15 * UNIT);
  assert.deepEqual(await readRange(theirs, 0, 15 * UNIT), shared.source.plain.slice(0, 15 * UNIT));
  assert.equal(shared.source.bytesRead, 15 * UNIT);
  assert.ok(diskBytes(dir) <= 20 * UNIT + UNIT);
  await Promise.all([a.close(), b.close(), theirs.close()]);
});

test('BlobCache serves right bytes under load with room for a tenth of them', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { capacity: 30 * UNIT, commitIntervalMs: 5, maxRunBytes: 4 * UNIT });
  const blobs = [1, 2, 3].map((seed) => makeSource(100 * UNIT - seed, seed));
  const open = await Promise.all(blobs.map((blob) => blob.open(cache)));
  cache.setQuiesce(() => sleep(1));
  let state = 7;
  const pick = (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const reader = async (): Promise<void> => {
    for (let i = 0; i < 150; i++) {
      const which = pick(3);
      const [blob, made] = [open[which], blobs[which]];
      assert.ok(blob && made);
      const offset = pick(blob.size);
      const length = Math.min(1 + pick(6 * UNIT), blob.size - offset);
      assert.ok(
        Buffer.compare(
          await readRange(blob, offset, length),
          made.source.plain.subarray(offset, offset + length),
        ) === 0,
        `blob ${which} [${offset}, ${offset + length})`,
      );
    }
  };
  await Promise.all([reader(), reader(), reader(), reader()]);
  await cache.flush();
  // A file in many pieces has a block of its own that says where they are.
  assert.ok(diskBytes(dir) <= 33 * UNIT, `${diskBytes(dir)} on disk`);
  const held = open.reduce((sum, blob) => sum + blob.presentBytes, 0);
  assert.ok(held <= 30 * UNIT, `${held} present`);
  assert.ok(cache.stats.evictedBytes > 0);
  await Promise.all(open.map((blob) => blob.close()));
});

test('BlobCache keeps part of the disk free', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { minFree: 2 ** 62 });
  const { source, open } = makeSource(8 * UNIT);
  const blob = await open(cache);
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await cache.flush();
  assert.equal(blob.presentBytes, 0);
  assert.equal(diskBytes(dir), 0);
  assert.equal(cache.stats.unstoredBytes, blob.size);
  assert.deepEqual(await readRange(blob, UNIT, 10), source.plain.slice(UNIT, UNIT + 10));
  assert.equal(source.bytesRead, blob.size, 'the last few units are kept in memory');
  await blob.close();
});

test('BlobCache on a file system without holes keeps what is in use and removes what is not', async (t) => {
  const punch = addon.filePunch.bind(addon);
  t.after(() => (addon.filePunch = punch));
  addon.filePunch = async () => -95;
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { capacity: 40 * UNIT, maxRunBytes: 4 * UNIT });
  const [one, two] = [makeSource(24 * UNIT, 1), makeSource(60 * UNIT, 2)];
  const first = await one.open(cache);
  await readRange(first, 0, first.size);
  await first.close();
  const second = await two.open(cache);
  assert.deepEqual(await readRange(second, 0, second.size), two.source.plain);
  await cache.flush();
  assert.ok(!readdirSync(dir).includes(one.digest));
  const before = second.presentBytes;
  assert.ok(before > 0);
  assert.deepEqual(await readRange(second, 0, second.size), two.source.plain);
  await cache.flush();
  assert.ok(second.presentBytes >= before, 'nothing is thrown away for no gain');
  assert.ok(diskBytes(dir) <= 42 * UNIT);
  await second.close();
});

test('BlobCache gives space back later when the workers did not pass in time', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { capacity: 40 * UNIT, maxRunBytes: UNIT });
  const { source, open } = makeSource(80 * UNIT);
  const blob = await open(cache);
  let failures = 0;
  cache.setQuiesce(async () => {
    if (failures++ === 0) throw new Error('worker is gone');
  });
  for (let round = 0; round < 2; round++) {
    for (let unit = 0; unit < 80; unit++)
      assert.deepEqual(
        await readRange(blob, unit * UNIT, UNIT),
        source.plain.slice(unit * UNIT, (unit + 1) * UNIT),
      );
    await cache.flush();
  }
  assert.ok(failures > 1);
  assert.ok(diskBytes(dir) <= 42 * UNIT, `${diskBytes(dir)} on disk`);
  const held = blob.presentBytes;
  assert.ok(diskBytes(dir) - held <= 4 * UNIT, `${diskBytes(dir)} on disk for ${held} present`);
  await blob.close();
});

test('BlobCache that has no room at all does not look for it on every read', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { capacity: 0, maxRunBytes: UNIT, spill: 4 * UNIT });
  const { source, open } = makeSource(200 * UNIT);
  const blob = await open(cache);
  const began = performance.now();
  assert.deepEqual(await readRange(blob, 0, blob.size), source.plain);
  await cache.flush();
  assert.equal(diskBytes(dir), 0);
  assert.equal(cache.stats.unstoredBytes, blob.size);
  assert.ok(cache.stats.scans <= 6 + (performance.now() - began) / 300, `${cache.stats.scans} scans`);
  await blob.close();
});

test('BlobCache.open() removes sidecars without data, and leaves what it does not know', async (t) => {
  const dir = tempDir(t);
  const { digest } = makeSource(UNIT);
  const other = makeSource(UNIT, 2).digest;
  const long = new Date(Date.now() - 86_400_000);
  for (const name of [`${digest}.units`, `${other}.units.tmp`, 'notes.units', 'sha256:abc.units']) {
    writeFileSync(join(dir, name), 'x');
    utimesSync(join(dir, name), long, long);
  }
  writeFileSync(join(dir, `${other}.units`), 'young');
  await openCache(t, dir);
  assert.deepEqual(readdirSync(dir).sort(), ['notes.units', 'sha256:abc.units', `${other}.units`].sort());
});

test('BlobCache that is full of units which turned out to be bad stores them anew', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir, { capacity: 40 * UNIT, maxRunBytes: UNIT });
  const [one, two] = [makeSource(34 * UNIT, 1), makeSource(30 * UNIT, 2)];
  const [a, b] = [await one.open(cache), await two.open(cache)];
  await readRange(a, 0, a.size);
  await cache.flush();
  await cache.verified();
  assert.equal(a.presentBytes, a.size);
  await a.forget();
  assert.equal(a.presentBytes, 0);
  // In place of what was there: needs no room.
  await readRange(a, 0, 10 * UNIT);
  await cache.flush();
  assert.equal(a.presentBytes, 10 * UNIT);
  // Elsewhere: the room of what was dropped.
  assert.deepEqual(await readRange(b, 0, b.size), two.source.plain);
  await cache.flush();
  assert.ok(b.presentBytes > 20 * UNIT, `${b.presentBytes / UNIT} units present`);
  assert.ok(diskBytes(dir) <= 42 * UNIT);
  await Promise.all([a.close(), b.close()]);
});
