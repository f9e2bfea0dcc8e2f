/**
 * A writable device through FUSE, used as disks are (test/support/exercise-device), then committed and used again. The same
 * through TCMU and through the kernel's own NBD client: test/vm/writable.test.ts.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const exercise = join(checkout, 'test', 'support', 'exercise-device');
const reason = await fuseUnsupported();
const skip =
  reason === undefined
    ? missing({ fio: 'fio', 'mkfs.ext4': 'e2fsprogs', blkdiscard: 'util-linux' })
    : `FUSE and loop devices: ${reason}`;

describe('A writable device through FUSE', { skip }, () => {
  for (const kind of ['append', 'sparse'])
    test(`on ${kind === 'append' ? 'an' : 'a'} ${kind} layer holds every byte, and so does what is committed of it`, async (t) => {
      const before = takeSnapshot();
      const dir = tempDir(t);
      const at = (name: string): string => join(dir, name);
      const flags = ['--service-config', at('service.json'), '--state-dir', at('state')];
      const tool = async (name: string, ...args: string[]): Promise<string> =>
        (await run(process.execPath, [join(checkout, 'bin', name), ...args])).stdout.trim();
      const withDevice = async (config: string, use: (device: string) => Promise<unknown>): Promise<void> => {
        const device = await tool('obd', 'attach', at(config), ...flags);
        try {
          await use(device);
        } finally {
          // A test that failed midway must not leave its mount to the others.
          await run('umount', [at('mnt')]).catch(() => undefined);
          await tool('obd', 'detach', device, ...flags);
          for (let i = 0; i < 600 && existsSync(at('run')); i++) await sleep(50);
        }
      };
      writeFileSync(
        at('service.json'),
        JSON.stringify({
          apiSocket: at('run/o.sock'),
          transport: 'fuse',
          logConfig: { logPath: at('log') },
        }),
      );
      writeFileSync(
        at('writable.json'),
        JSON.stringify({ lowers: [], upper: { data: at('data'), index: at('index') } }),
      );
      writeFileSync(at('committed.json'), JSON.stringify({ lowers: [{ file: at('layer') }] }));
      await tool('overlaybd-create', at('data'), at('index'), '1', ...(kind === 'sparse' ? ['-s'] : []));
      await withDevice('writable.json', (device) => run(exercise, ['write', device, dir]));
      await tool('overlaybd-commit', at('data'), at('index'), at('layer'), '-z', '-t');
      await withDevice('committed.json', (device) => run(exercise, ['check', device, dir]));
      if (kind === 'append') {
        await tool('obd', 'compact', '--quiet', '--config', at('writable.json'));
        await withDevice('writable.json', (device) => run(exercise, ['check', device, dir]));
      }
      await tool('obd', 'verify', at('layer'));
      assert.deepEqual(await leftSince(before), []);
    });
});
