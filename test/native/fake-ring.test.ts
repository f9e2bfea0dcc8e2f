import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { FileBlob, WritableMemoryBlob } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';
import { FakeRing, FakeRingAttack, type FakeRingLoad, type FakeRingOptions } from '../../src/native/index.js';
import { pattern } from '../conformance/block-device.js';

const SIZE = 16 << 20;
const plannerModule = new URL('../support/raw-planner.js', import.meta.url).href;
const workers = new IoWorkers({ logger: silentLogger, count: 1, plannerModule });
const dir = mkdtempSync(join(tmpdir(), 'fake-ring-'));
const file = join(dir, 'disk');
writeFileSync(file, pattern(0, SIZE));
const fd = openSync(file, 'r+');
after(async () => {
  await workers.close();
  closeSync(fd);
  rmSync(dir, { recursive: true });
});

const shape: FakeRingOptions = {
  ringSize: 64 * 1024,
  dataBlocks: 1024,
  deviceSize: SIZE,
  readOnly: true,
  verifyFd: fd,
};
const load: FakeRingLoad = {
  depth: 32,
  length: 4096,
  operations: 5000,
  writes: 0,
  sequential: false,
  scatter: false,
  seed: 1,
};

async function localDevice(piece = 0): Promise<BlockDevice> {
  const blob = await FileBlob.open(file);
  return new BlockDevice(blob, { planner: { fd: blob.localFile().fd, piece } });
}

for (const [name, change, options] of [
  ['one 4 KiB read at a time', { depth: 1, operations: 500 }, {}],
  ['many 4 KiB reads', {}, {}],
  ['single sectors', { length: 512 }, {}],
  ['64 KiB into scattered memory', { length: 65536, scatter: true, operations: 1000 }, {}],
  ['1 MiB in pieces', { length: 1 << 20, scatter: true, operations: 60, depth: 4 }, {}],
  ['a ring that wraps after a few commands', { scatter: true, length: 32768 }, { ringSize: 1024 }],
  ['a data area that is always full', { depth: 256 }, { dataBlocks: 16 }],
  ['more in flight than a queue has slots', { depth: 1000 }, { ringSize: 1 << 20 }],
] as const)
  test(`the TCMU handler serves ${name}`, async () => {
    const ring = new FakeRing({ ...shape, ...options });
    const device = await localDevice(name.includes('pieces') ? 3072 : 0);
    const served = await workers.serve(ring.handle, device);
    const r = await ring.run({ ...load, ...change });
    assert.deepEqual(
      { failed: r.failed, wrong: r.wrong, violations: r.violations, error: r.error },
      { failed: 0, wrong: 0, violations: 0, error: 0 },
    );
    assert.equal(r.operations, { ...load, ...change }.operations);
    assert.equal(served.counters.localReads, r.operations);
    await served.remove();
    ring.close();
    await device.close();
  });

test('the TCMU handler serves reads and writes of a writable image', async () => {
  const ring = new FakeRing({ ...shape, readOnly: false });
  const device = new BlockDevice(new WritableMemoryBlob(pattern(0, SIZE)));
  const served = await workers.serve(ring.handle, device);
  const r = await ring.run({ ...load, writes: 50, operations: 3000, length: 8192, scatter: true });
  assert.deepEqual([r.failed, r.wrong, r.violations, r.error], [0, 0, 0, 0]);
  assert.ok(served.counters.writes > 1000);
  await served.remove();
  ring.close();
  writeFileSync(file, pattern(0, SIZE)); // as the other tests expect it
});

test('the TCMU handler answers SCSI commands in the ring', async () => {
  const ring = new FakeRing(shape);
  const device = await localDevice();
  const served = await workers.serve(ring.handle, device);
  const inquiry = Buffer.alloc(96, 0xee);
  assert.equal(ring.command([0x12, 0, 0, 0, 96], inquiry).status, 0);
  assert.equal(inquiry.subarray(8, 16).toString(), 'LIO-ORG ');
  assert.ok(
    inquiry.subarray(36).every((b) => b === 0),
    'memory beyond the answer is cleared',
  );
  const read = Buffer.alloc(8192);
  assert.equal(ring.command([0x28, 0, 0, 0, 0, 16, 0, 0, 16], read).status, 0);
  assert.equal(Buffer.compare(read, pattern(8192, 8192)), 0);
  const outside = ring.command([0x28, 0, 0xff, 0, 0, 0, 0, 0, 1], Buffer.alloc(512));
  assert.deepEqual([outside.status, outside.sense[2], outside.sense[12]], [2, 5, 0x21]);
  const write = ring.command([0x2a, 0, 0, 0, 0, 0, 0, 0, 1], Buffer.alloc(512));
  assert.deepEqual([write.status, write.sense[2], write.sense[12], write.sense[13]], [2, 5, 0x30, 5]);
  assert.equal(ring.command([0xff], Buffer.alloc(0)).status, 2);
  await served.remove();
  ring.close();
  await device.close();
});

for (const [name, attack] of Object.entries(FakeRingAttack))
  test(`a ring that lies (${name}) ends that queue and nothing else`, async () => {
    for (let seed = 1; seed <= (name === 'GARBAGE' ? 5 : 1); seed++) {
      const bad = new FakeRing(shape);
      const good = new FakeRing(shape);
      const device = await localDevice();
      const served = await workers.serve(bad.handle, device);
      const other = await workers.serve(good.handle, device);
      bad.attack(attack, seed);
      if (name !== 'GARBAGE') assert.equal(await served.gone, 71, 'EPROTO');
      const r = await good.run({ ...load, operations: 200 });
      assert.deepEqual([r.failed, r.wrong, r.violations, r.error], [0, 0, 0, 0]);
      await Promise.all([served.remove(), other.remove()]);
      bad.close();
      good.close();
      await device.close();
    }
  });
