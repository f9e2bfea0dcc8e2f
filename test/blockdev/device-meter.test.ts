import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { FileBlob, WritableMemoryBlob } from '../../src/blob/index.js';
import { BlockDevice, DeviceMeter, IoWorkers } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';
import {
  FakeRing,
  IoCause,
  IO_CAUSES,
  METER_BUCKETS,
  METER_WORDS,
  MeterWord,
  bucketEnd,
  bucketOf,
} from '../../src/native/index.js';
import { pattern } from '../conformance/block-device.js';

const SIZE = 4 << 20;
const plannerModule = new URL('../support/raw-planner.js', import.meta.url).href;
const workers = new IoWorkers({ logger: silentLogger, count: 1, plannerModule });
const dir = mkdtempSync(join(tmpdir(), 'device-meter-'));
const file = join(dir, 'disk');
writeFileSync(file, pattern(0, SIZE));
const fd = openSync(file, 'r');
after(async () => {
  await workers.close();
  closeSync(fd);
  rmSync(dir, { recursive: true });
});

function newRing(readOnly: boolean): FakeRing {
  return new FakeRing({ ringSize: 65536, dataBlocks: 1024, deviceSize: SIZE, readOnly, verifyFd: -1 });
}

function counts(meter: DeviceMeter, word: number): number[] {
  return Array.from({ length: IO_CAUSES }, (_, cause) => meter.word(cause, word));
}

test('every time belongs to the bucket that ends behind it and not before it', () => {
  assert.equal(METER_WORDS, 8 + IO_CAUSES * (8 + METER_BUCKETS));
  for (let ns = 1; ns < 2 ** 42; ns = Math.ceil(ns * 1.07)) {
    const bucket = bucketOf(ns);
    assert.ok(ns < bucketEnd(bucket), `${ns} in ${bucket}`);
    if (bucket > 0) assert.ok(ns >= bucketEnd(bucket - 1), `${ns} in ${bucket}`);
  }
  assert.equal(bucketEnd(METER_BUCKETS - 1), Infinity);
});

test('local reads are counted natively, with times that agree with those of who asked', async () => {
  const blob = await FileBlob.open(file);
  const device = new BlockDevice(blob, { planner: { fd: blob.localFile().fd, piece: 0 } });
  const ring = newRing(true);
  const served = await workers.serve(ring.handle, device);
  const depth = 4;
  const load = { depth, length: 4096, operations: 20_000, writes: 0, sequential: false };
  const began = performance.now();
  const result = await ring.run({ ...load, scatter: false, seed: 1 });
  const elapsed = (performance.now() - began) * 1e6;
  const { meter } = served;
  const count = counts(meter, MeterWord.COUNT);
  assert.equal((count[IoCause.LOCAL] ?? 0) + (count[IoCause.DISK] ?? 0), result.operations);
  assert.equal(
    count.reduce((a, b) => a + b),
    result.operations,
  );
  assert.equal(meter.counters.readBytes, result.operations * 4096);
  assert.equal(meter.counters.localReads, result.operations);
  assert.equal(meter.inFlight, 0);
  // `depth` reads are under way at any time: all of their times together cannot be more, whatever the machine does.
  const nanoseconds = counts(meter, MeterWord.NANOSECONDS).reduce((a, b) => a + b);
  assert.ok(nanoseconds > 0 && nanoseconds < depth * elapsed * 1.05, `${nanoseconds} ns in ${elapsed}`);
  // The sum lies between the buckets' beginnings and ends.
  let [least, most, inBuckets] = [0, 0, 0];
  for (const cause of [IoCause.LOCAL, IoCause.DISK])
    for (let bucket = 0; bucket < METER_BUCKETS; bucket++) {
      const n = meter.word(cause, MeterWord.BUCKETS + bucket);
      if (n === 0) continue;
      inBuckets += n;
      least += n * (bucket === 0 ? 0 : bucketEnd(bucket - 1));
      most += n * bucketEnd(bucket);
    }
  assert.equal(inBuckets, result.operations);
  assert.ok(least <= nanoseconds && nanoseconds <= most, `${least} <= ${nanoseconds} <= ${most}`);
  const longest = meter.takeLongestRead();
  assert.ok(longest * result.operations >= nanoseconds && longest < elapsed * 1.05);
  assert.equal(meter.takeLongestRead(), 0);
  await served.remove();
  ring.close();
  await device.close();
});

test('reads that JavaScript answers, and writes, are counted as such', async () => {
  const device = new BlockDevice(new WritableMemoryBlob(pattern(0, SIZE)));
  const ring = newRing(false);
  const served = await workers.serve(ring.handle, device);
  const load = { depth: 8, length: 8192, operations: 1000, writes: 50, sequential: false };
  await ring.run({ ...load, scatter: false, seed: 2 });
  const count = counts(served.meter, MeterWord.COUNT);
  assert.equal((count[IoCause.GENERAL] ?? 0) + (count[IoCause.WRITE] ?? 0), 1000);
  assert.ok((count[IoCause.WRITE] ?? 0) > 300);
  assert.equal(served.meter.counters.writeBytes, (count[IoCause.WRITE] ?? 0) * 8192);
  await served.remove();
  ring.close();
});

test('reads that fail are counted as errors', async () => {
  const broken = {
    name: 'broken',
    size: SIZE,
    read: () => Promise.reject(new Error('no')),
    close: async () => undefined,
  };
  const device = new BlockDevice(broken, { policy: { deadlineMs: 0, then: 'error' } });
  const ring = newRing(true);
  const served = await workers.serve(ring.handle, device);
  const load = { depth: 1, length: 4096, operations: 3, writes: 0, sequential: false };
  assert.equal((await ring.run({ ...load, scatter: false, seed: 3 })).failed, 3);
  assert.equal(served.meter.word(IoCause.GENERAL, MeterWord.ERRORS), 3);
  assert.equal(served.meter.counters.readBytes, 0);
  await served.remove();
  ring.close();
});

test('DeviceMeter counts for devices that JavaScript serves, and sums', () => {
  const meter = new DeviceMeter();
  meter.begin();
  meter.begin();
  assert.equal(meter.inFlight, 2);
  meter.end(IoCause.WRITE, 3, 4096, true);
  meter.end(undefined, 1, 0, true);
  const sum = new DeviceMeter();
  sum.addFrom(meter);
  sum.addFrom(meter);
  assert.equal(sum.inFlight, 0);
  assert.deepEqual(sum.counters, { ...new DeviceMeter().counters, writes: 2, writeBytes: 8192 });
  assert.equal(sum.word(IoCause.WRITE, MeterWord.BUCKETS + bucketOf(3e6)), 2);
});

test('IoWorkers tells of a device when it is served, and when that is over', async () => {
  const told: string[] = [];
  const metered = new IoWorkers({
    logger: silentLogger,
    count: 1,
    onServed: (meter) => {
      told.push('served');
      return () => told.push(`over after ${meter.counters.reads} reads`);
    },
  });
  const ring = newRing(true);
  const served = await metered.serve(ring.handle, new BlockDevice(new WritableMemoryBlob(pattern(0, SIZE))));
  assert.deepEqual(told, ['served']);
  const load = { depth: 4, length: 4096, operations: 100, writes: 0, sequential: false };
  await ring.run({ ...load, scatter: false, seed: 1 });
  await served.remove();
  assert.deepEqual(told, ['served', 'over after 100 reads']);
  ring.close();
  await metered.close();
});
