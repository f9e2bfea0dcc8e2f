import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants, existsSync, readFileSync, readdirSync } from 'node:fs';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { MemoryBlob, SECTOR, WritableMemoryBlob } from '../../src/blob/index.js';
import { BlockDevice, FuseFrontEnd, IoWorkers, fuseUnsupported } from '../../src/blockdev/index.js';
import { silentLogger, type Logger } from '../../src/log/index.js';
import { blockDeviceSuite, pattern } from '../conformance/block-device.js';
import { openInChild } from '../support/device-client.js';

// Never synchronously: this process serves what the child waits for.
const run = promisify(execFile);

const reason = await fuseUnsupported();
const skip = reason === undefined ? false : `FUSE and loop devices: ${reason}`;

const serviceModule = new URL('../support/fuse-service.js', import.meta.url);
const workers = new IoWorkers({ logger: silentLogger, count: 2 });
after(() => workers.close());

/** What a device could leave behind. */
function traces(): { loops: string[]; bound: string[]; mounts: string[]; fds: number } {
  const loops = readdirSync('/sys/block').filter((name) => name.startsWith('loop'));
  return {
    loops,
    bound: loops.filter((name) => readdirSync(`/sys/block/${name}`).includes('loop')),
    mounts: readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes('overlaybd')),
    fds: readdirSync('/proc/self/fd').length,
  };
}

function frontEnd(device: BlockDevice): FuseFrontEnd {
  return new FuseFrontEnd({ open: async () => device, workers, logger: silentLogger });
}

let number = 0;
blockDeviceSuite('FuseFrontEnd', {
  skip,
  supports: { write: true, discard: true, outOfRange: false },
  factory: async (device) => {
    const attachment = await frontEnd(device).attach({ id: `t${++number}`, configPath: '/x' });
    const path = attachment.devicePath ?? '';
    const flags = device.readOnly ? constants.O_RDONLY : constants.O_RDWR | constants.O_SYNC;
    const client = await openInChild(path, flags);
    return {
      size: Number(readFileSync(`/sys/block/${path.slice(5)}/size`, 'utf8')) * SECTOR,
      read: (offset, length) => client.read(offset, length),
      write: (offset, data) => client.write(offset, data),
      flush: () => client.flush(),
      async discard(offset, length) {
        await run('blkdiscard', ['-o', String(offset), '-l', String(length), path]);
      },
      async detach() {
        await client.close();
        await attachment.detach();
      },
    };
  },
});

test('FuseFrontEnd leaves nothing behind after a detach', { skip }, async () => {
  const before = traces();
  const front = frontEnd(new BlockDevice(new MemoryBlob(pattern(0, 1 << 20))));
  const attachment = await front.attach({ id: 'one', configPath: '/x' });
  assert.equal(front.attachments().length, 1);
  assert.notDeepEqual(traces(), before);
  const name = attachment.devicePath?.slice(5) ?? '';
  assert.equal(readFileSync(`/sys/block/${name}/loop/dio`, 'utf8').trim(), '1');
  assert.equal(readFileSync(`/sys/block/${name}/ro`, 'utf8').trim(), '1');
  assert.equal(
    readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim(),
    `/overlaybd-one-${process.pid}`,
  );
  await attachment.detach();
  await attachment.detach();
  assert.deepEqual(traces(), before);
  assert.equal(front.attachments().length, 0);
});

test(
  'FuseFrontEnd refuses a second device of the same name, and an image that does not open',
  { skip },
  async () => {
    const before = traces();
    const front = frontEnd(new BlockDevice(new MemoryBlob(pattern(0, 1 << 20))));
    const attachment = await front.attach({ id: 'one', configPath: '/x' });
    await assert.rejects(front.attach({ id: 'one', configPath: '/y' }), { code: 'OBD_DEVICE_EXISTS' });
    await attachment.detach();
    const broken = new FuseFrontEnd({
      open: () => Promise.reject(new Error('no such image')),
      workers,
      logger: silentLogger,
    });
    await assert.rejects(broken.attach({ id: 'two', configPath: '/y' }), { message: 'no such image' });
    const empty = frontEnd(new BlockDevice(new WritableMemoryBlob(new Uint8Array(0))));
    await assert.rejects(empty.attach({ id: 'three', configPath: '/z' }), { code: 'OBD_DEVICE_KERNEL' });
    assert.deepEqual(traces(), before);
  },
);

test(
  'FuseFrontEnd.detach() refuses while the device is claimed, and works afterwards',
  { skip },
  async () => {
    const before = traces();
    const front = frontEnd(new BlockDevice(new MemoryBlob(pattern(0, 1 << 20))));
    const attachment = await front.attach({ id: 'busy', configPath: '/x' });
    const claim = await openInChild(attachment.devicePath ?? '', constants.O_RDONLY | constants.O_EXCL);
    await assert.rejects(attachment.detach(), { code: 'OBD_DEVICE_BUSY' });
    assert.equal(Buffer.compare(await claim.read(8192, 4096), pattern(8192, 4096)), 0);
    await claim.close();
    await attachment.detach();
    assert.deepEqual(traces(), before);
  },
);

test('FuseFrontEnd.close() takes a device away from who still reads it', { skip }, async () => {
  const before = traces();
  const front = frontEnd(new BlockDevice(new MemoryBlob(pattern(0, 1 << 20))));
  const attachment = await front.attach({ id: 'held', configPath: '/x' });
  const claim = await openInChild(attachment.devicePath ?? '', constants.O_RDONLY | constants.O_EXCL);
  await front.close();
  await assert.rejects(claim.read(0, 4096), { code: 'EIO' });
  await claim.close();
  assert.deepEqual(traces(), before);
});

test('many FUSE devices come and go at once', { skip }, async () => {
  const before = traces();
  const front = new FuseFrontEnd({
    open: async (path) => new BlockDevice(new MemoryBlob(pattern(0, 1 << 20, Number(path)))),
    workers,
    logger: silentLogger,
  });
  const attachments = await Promise.all(
    Array.from({ length: 20 }, (_, i) => front.attach({ id: `d${i}`, configPath: String(i) })),
  );
  await Promise.all(
    attachments.map(async (attachment, i) => {
      const client = await openInChild(attachment.devicePath ?? '', constants.O_RDONLY);
      const data = await client.read(0, 1 << 20);
      await client.close();
      assert.equal(Buffer.compare(data, pattern(0, 1 << 20, i)), 0, `device ${i}`);
    }),
  );
  await front.close();
  assert.deepEqual(traces(), before);
});

test('a reader that is killed does not disturb the others', { skip }, async () => {
  const front = frontEnd(new BlockDevice(new MemoryBlob(pattern(0, 8 << 20))));
  const attachment = await front.attach({ id: 'killed', configPath: '/x' });
  const path = attachment.devicePath ?? '';
  const reader = spawn('sh', [
    '-c',
    `while :; do dd if=${path} of=/dev/null bs=4k iflag=direct 2>/dev/null; done`,
  ]);
  await new Promise((resolve) => setTimeout(resolve, 300));
  reader.kill('SIGKILL');
  const client = await openInChild(path, constants.O_RDONLY);
  assert.equal(Buffer.compare(await client.read(65536, 65536), pattern(65536, 65536)), 0);
  await client.close();
  await attachment.detach();
});

test(
  'a service killed under load, with its readers, leaves no device and no stuck process',
  { skip },
  async () => {
    // The order in which a dying process closes its descriptors made it wait for itself (native/loop_device.h).
    for (let round = 0; round < 5; round++) {
      const service = spawn(process.execPath, [fileURLToPath(serviceModule), String(64 << 20)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const [line] = (await once(service.stdout, 'data')) as [Buffer];
      const path = line.toString().trim();
      const readers = Array.from({ length: 6 }, (_, i) =>
        spawn('dd', [`if=${path}`, 'of=/dev/null', 'bs=256k', `skip=${i * 40}`], { stdio: 'ignore' }),
      );
      await sleep(20 + 10 * round);
      const ends = [service, ...readers].map(async (p) => {
        p.kill('SIGKILL');
        if (p.exitCode === null && p.signalCode === null) await once(p, 'exit');
      });
      await Promise.race([
        Promise.all(ends),
        sleep(10_000, undefined, { ref: false }).then(() => {
          throw new Error(`a process does not end (round ${round})`);
        }),
      ]);
      for (let i = 0; i < 100 && existsSync(`/sys/block/${path.slice(5)}/loop`); i++) await sleep(20);
      assert.equal(existsSync(`/sys/block/${path.slice(5)}/loop`), false, 'the loop device is still bound');
    }
  },
);

// A worker once took the end of a queue for that of the next one with its index, and died; and the end of a connection
// that a detach caused was sometimes taken for an abort, and everything released twice.
test('devices that come and go at once, all on one worker', { skip, timeout: 60_000 }, async () => {
  const before = traces();
  const said: string[] = [];
  const say = (_: unknown, message: string): number => said.push(message);
  const logger = { ...silentLogger, error: say, warn: say, child: () => logger } as unknown as Logger;
  const one = new IoWorkers({ logger, count: 1 });
  const front = new FuseFrontEnd({
    open: async () => new BlockDevice(new MemoryBlob(new Uint8Array(1 << 20))),
    workers: one,
    logger,
  });
  const lane = async (id: string): Promise<void> => {
    for (let n = 0; n < 40; n++) await (await front.attach({ id, configPath: '/x' })).detach();
  };
  await Promise.all(Array.from({ length: 8 }, (_, n) => lane(`lane-${n}`)));
  assert.deepEqual([front.attachments(), said], [[], []]);
  await front.close();
  await one.close();
  const after = traces();
  assert.deepEqual([after.bound, after.mounts], [before.bound, before.mounts]);
});
