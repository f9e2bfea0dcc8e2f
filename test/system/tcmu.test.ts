/**
 * TCMU for real: attach, use and detach block devices through the kernel. Few kernels have target_core_user; test/vm
 * runs this file in a machine that does. Nothing here may wait synchronously for a device: this thread serves it.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { describe, test, before, after } from 'node:test';
import { promisify } from 'node:util';
import { ConfigError, MemoryBlob } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers, TcmuFrontEnd, tcmuAvailable } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';
import { blockDeviceSuite, pattern } from '../conformance/block-device.js';

const run = promisify(execFile);
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : !(await tcmuAvailable()) && 'this kernel has no target_core_user (test/vm has one)';

let workers: IoWorkers | undefined;
let frontEnd: TcmuFrontEnd | undefined;
const images = new Map<string, BlockDevice>();
let last = 0;

/** The front end, started. */
function tcmu(): TcmuFrontEnd {
  if (frontEnd === undefined) throw new Error('not started');
  return frontEnd;
}

async function attach(device: BlockDevice) {
  const id = String(++last);
  const configPath = `/image-${id}`;
  images.set(configPath, device);
  return tcmu().attach({ configPath, id });
}

describe('TCMU', { skip }, () => {
  before(async () => {
    workers = new IoWorkers({ logger: silentLogger, count: 2 });
    frontEnd = new TcmuFrontEnd({
      workers,
      logger: silentLogger,
      openImage: (path) => {
        const device = images.get(path);
        return device === undefined
          ? Promise.reject(new ConfigError('OBD_CONFIG_NOT_FOUND', `No image ${path}`))
          : Promise.resolve(device);
      },
    });
    await frontEnd.start();
  });
  after(async () => {
    await frontEnd?.close();
    await workers?.close();
  });

  blockDeviceSuite('a TCMU disk', {
    supports: { write: true, discard: true, outOfRange: false },
    factory: async (device) => {
      const attachment = await attach(device);
      const path = attachment.devicePath ?? '';
      return {
        size: Number((await run('blockdev', ['--getsize64', path])).stdout),
        read: async (offset, length) => {
          const handle = await open(path, 'r');
          try {
            const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, offset);
            assert.equal(bytesRead, length);
            return buffer;
          } finally {
            await handle.close();
          }
        },
        write: async (offset, data) => {
          const handle = await open(path, 'r+');
          try {
            await handle.write(data, 0, data.length, offset);
            await handle.sync();
          } finally {
            await handle.close();
          }
          await run('blockdev', ['--flushbufs', path]); // the next read comes from the device
        },
        discard: async (offset, length) => {
          await run('blkdiscard', ['-o', String(offset), '-l', String(length), path]);
        },
        flush: async () => {
          const handle = await open(path, 'r+');
          await handle.sync();
          await handle.close();
        },
        // Under load: whoever has it open keeps it busy.
        detach: async () => {
          while (
            tcmu()
              .attachments()
              .some(({ id }) => id === attachment.id)
          )
            try {
              await attachment.detach();
              break;
            } catch (error) {
              assert.equal((error as { code?: string }).code, 'OBD_DEVICE_BUSY');
              await new Promise((resolve) => setTimeout(resolve, 20));
            }
        },
      };
    },
  });

  test('a device that is in use cannot be detached, and lives on', async () => {
    const attachment = await attach(new BlockDevice(new MemoryBlob(pattern(0, 1 << 20))));
    const path = attachment.devicePath ?? '';
    const name = path.slice('/dev/'.length);
    await run('modprobe', ['dm_mod']);
    const handle = await open(path, 'r');
    const held = await run('dmsetup', [
      'create',
      'held',
      '--readonly',
      '--table',
      `0 8 linear ${path} 0`,
    ]).then(
      () => true,
      () => false, // no device mapper here
    );
    if (held) {
      await assert.rejects(attachment.detach(), { code: 'OBD_DEVICE_BUSY' });
      assert.ok(existsSync(`/sys/block/${name}`));
      await run('dmsetup', ['remove', 'held']);
    }
    await handle.close();
    await attachment.detach();
    assert.ok(!existsSync(`/sys/block/${name}`));
  });

  test('an image that does not open is refused with its own reason, and nothing is left', async () => {
    writeFileSync('/tmp/broken.json', JSON.stringify({ resultFile: '/tmp/result' }));
    writeFileSync('/tmp/result', 'failed:the reason');
    await assert.rejects(tcmu().attach({ configPath: '/tmp/broken.json', id: 'broken' }), /the reason/);
    assert.ok(!existsSync('/sys/kernel/config/target/core/user_999999999/dev_broken'));
    await assert.rejects(tcmu().attach({ configPath: '/tmp/broken.json', id: 'a/b' }), {
      code: 'OBD_DEVICE_UNSUPPORTED',
    });
  });

  test('an id is used once', async () => {
    const attachment = await attach(new BlockDevice(new MemoryBlob(pattern(0, 1 << 20))));
    await assert.rejects(tcmu().attach({ configPath: attachment.configPath, id: attachment.id }), {
      code: 'OBD_DEVICE_EXISTS',
    });
    assert.equal(
      readFileSync(`/sys/block/${(attachment.devicePath ?? '').slice(5)}/size`, 'utf8').trim(),
      '2048',
    );
    await attachment.detach();
  });

  test('twenty devices are made and removed at once', async () => {
    const attachments = await Promise.all(
      Array.from({ length: 20 }, (_, i) => attach(new BlockDevice(new MemoryBlob(pattern(0, 65536, i))))),
    );
    await Promise.all(
      attachments.map(async (a, i) => {
        assert.equal(Buffer.compare(await readFile(a.devicePath ?? ''), pattern(0, 65536, i)), 0);
        await a.detach();
      }),
    );
    assert.deepEqual(tcmu().attachments(), []);
  });
});
