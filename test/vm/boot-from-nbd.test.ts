/** QEMU boots a disk that `obd nbd` serves; the script can be run by hand. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';
import { noMachine } from './machine.js';

const run = promisify(execFile);
const skip =
  noMachine ||
  (!existsSync('/usr/bin/qemu-system-x86_64') && 'needs the package qemu-system-x86') ||
  missing({ cpio: 'cpio', e2fsck: 'e2fsprogs', debugfs: 'e2fsprogs' });

test('QEMU boots an image over NBD, and what it wrote is in the upper layer', { skip }, async (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  const { stdout } = await run(join(checkout, 'test', 'vm', 'boot-from-nbd'), [dir]);
  assert.deepEqual(
    stdout.split('\n').slice(0, 4),
    ['init is running from /dev/vda', 'every file is right', 'written', 'clean'],
    stdout,
  );
  await run(process.execPath, [
    join(checkout, 'bin', 'obd'),
    ...['export', '--quiet', '--config', at('image.json'), at('disk')],
  ]);
  await run('e2fsck', ['-fn', at('disk')]);
  await run('debugfs', ['-R', `dump /data/copy ${at('copy')}`, at('disk')]);
  assert.ok(readFileSync(at('copy')).equals(readFileSync(at('root/data/random'))));
});
