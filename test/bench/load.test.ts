import assert from 'node:assert/strict';
import { mkdtempSync, openSync, rmSync, writeFileSync, closeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { checkLoad, formatNumber, placesOf, randoms, tableOf, type Load } from '../../src/bench/index.js';
import type { Extent } from '../../src/blob/index.js';
import { FakeRing, fileLoad, PlainServer } from '../../src/native/index.js';

const dir = mkdtempSync(join(tmpdir(), 'bench-load-'));
after(() => {
  rmSync(dir, { recursive: true });
});

const SIZE = 1 << 20;
const load: Load = {
  length: 4096,
  depth: 1,
  pattern: 'sequential',
  writes: 0,
  seconds: 1,
  warmUp: 0,
  seed: 1,
  cold: false,
};

/** A disk with data in [6000, 30000) and [100 KiB, 300 KiB), the first in two pieces. */
const disk = {
  extents: (): Extent[] => [
    { offset: 0, length: 6000, data: false },
    { offset: 6000, length: 4000, data: true },
    { offset: 10000, length: 20000, data: true },
    { offset: 30000, length: 102400 - 30000, data: false },
    { offset: 102400, length: 204800, data: true },
    { offset: 307200, length: SIZE - 307200, data: false },
  ],
};

test('placesOf() visits the aligned blocks that are data from end to end', () => {
  const places = [...placesOf(disk, SIZE, load)];
  assert.deepEqual(places.slice(0, 6), [8192, 12288, 16384, 20480, 24576, 102400]);
  assert.equal(places.length, 5 + 50);
  assert.equal(places.at(-1), 307200 - 4096);
});

test('placesOf() visits the whole disk if it has no data, and for writes', () => {
  assert.equal(placesOf({ extents: () => [] }, SIZE, load).length, 256);
  assert.equal(placesOf(disk, SIZE, { ...load, writes: 10 }).length, 256);
  assert.throws(() => placesOf({}, 1024, load), { code: 'OBD_CONFIG_VALUE' });
});

test('placesOf() of a cold random load holds every block once, in disorder', () => {
  const places = [...placesOf({}, SIZE, { ...load, pattern: 'random', cold: true })];
  assert.equal(new Set(places).size, 256);
  const sorted = places.toSorted((a, b) => a - b);
  assert.notDeepEqual(places, sorted);
  const again = [...placesOf({}, SIZE, { ...load, pattern: 'random', cold: true })];
  assert.deepEqual(again, places, 'the same with the same seed');
  const other = [...placesOf({}, SIZE, { ...load, pattern: 'random', cold: true, seed: 2 })];
  assert.notDeepEqual(other, places);
});

test('placesOf() thins out what would be too many', () => {
  const places = placesOf({}, 64 * 2 ** 30, load);
  assert.equal(places.length, 2 << 20);
  assert.equal((places[1] ?? 0) - (places[0] ?? 0), 8 * 4096);
});

test('checkLoad() refuses what cannot be carried out', () => {
  const wrong: readonly Partial<Load>[] = [
    { length: 1000 },
    { length: 8 << 20 },
    { depth: 0 },
    { depth: 2000 },
    { depth: 1024, length: 1 << 20 },
    { seconds: 0 },
    { cold: true, writes: 1 },
    { cold: true, pattern: 'local' },
  ];
  for (const change of wrong)
    assert.throws(
      () => {
        checkLoad({ ...load, ...change });
      },
      { code: 'OBD_CONFIG_VALUE' },
    );
});

test('randoms() is the same with the same seed, and spread evenly', () => {
  const [a, b] = [randoms(7), randoms(7)];
  const counts = new Array<number>(10).fill(0);
  for (let i = 0; i < 10_000; i++) {
    const n = a(10);
    assert.equal(n, b(10));
    counts[n] = (counts[n] ?? 0) + 1;
  }
  for (const count of counts) assert.ok(count > 850 && count < 1150, counts.join());
});

test('tableOf() has a column for every number that any row has', () => {
  assert.deepEqual(
    tableOf([
      { name: 'a', iops: 123456.7, p50Us: 1.2345 },
      { name: 'b', openMs: 0.01234 },
    ]),
    [
      ['', 'IOPS', 'P50 us', 'OPEN ms'],
      ['a', '123457', '1.23', '-'],
      ['b', '-', '-', '0.012'],
    ],
  );
  assert.equal(formatNumber(0), '0');
  assert.equal(formatNumber(98.76), '98.8');
});

test('fileLoad() counts what it reads, and says what fails', async () => {
  const path = join(dir, 'file');
  writeFileSync(path, Buffer.alloc(SIZE, 1));
  const fd = openSync(path, 'r');
  try {
    const shape = {
      fd,
      size: SIZE,
      depth: 8,
      length: 4096,
      seconds: 0.05,
      writes: 0,
      sequential: false,
      window: 0,
      seed: 1,
    };
    const good = await fileLoad(shape);
    assert.equal(good.error, 0);
    assert.equal(good.failed, 0);
    assert.ok(good.operations >= 8 && good.seconds >= 0.05);
    assert.ok(good.p50 <= good.p99 && good.p99 <= good.p999 && good.p999 <= good.longest);
    const short = await fileLoad({ ...shape, size: 2 * SIZE, targets: Float64Array.of(SIZE) });
    assert.ok(short.failed > 0);
    assert.equal(short.firstFailure, 0);
    const readOnly = await fileLoad({ ...shape, writes: 100 });
    assert.equal(readOnly.firstFailure || readOnly.error, -9, 'EBADF');
    const outside = await fileLoad({ ...shape, targets: Float64Array.of(SIZE - 512) });
    assert.equal(outside.error, -22, 'EINVAL');
  } finally {
    closeSync(fd);
  }
});

test('PlainServer serves a ring from a file, every byte of it', async () => {
  const path = join(dir, 'plain');
  const bytes = Buffer.alloc(SIZE);
  const random = randoms(3);
  for (let i = 0; i < SIZE; i += 4) bytes.writeUInt32LE(random(2 ** 32), i);
  writeFileSync(path, bytes);
  const fd = openSync(path, 'r');
  const ring = new FakeRing({
    ringSize: 1 << 20,
    dataBlocks: 256,
    deviceSize: SIZE,
    readOnly: true,
    verifyFd: fd,
  });
  const server = new PlainServer(ring.handle, fd);
  try {
    const shape = {
      depth: 16,
      length: 8192,
      operations: 2000,
      writes: 0,
      sequential: false,
      scatter: true,
      seed: 5,
    };
    const { operations, failed, wrong, violations, error } = await ring.run(shape);
    assert.deepEqual(
      { operations, failed, wrong, violations, error },
      { operations: 2000, failed: 0, wrong: 0, violations: 0, error: 0 },
    );
    // An end by the clock, at places of our own.
    const timed = await ring.run({
      ...shape,
      operations: 0,
      seconds: 0.02,
      targets: Float64Array.of(0, 65536),
    });
    assert.equal(timed.error, 0);
    assert.equal(timed.wrong, 0);
    assert.ok(timed.operations > 0);
  } finally {
    server.close();
    ring.close();
    closeSync(fd);
  }
});
