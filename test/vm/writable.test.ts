/** Writable devices through TCMU and through the kernel's NBD client, in a machine: guest/writable. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { missing } from '../support/commands.js';
import { noMachine, runInMachine } from './machine.js';

const skip = noMachine || missing({ fio: 'fio', 'nbd-client': 'nbd-client', 'mkfs.ext4': 'e2fsprogs' });

test(
  'writable devices hold every byte through TCMU and NBD, and so does what is committed of them',
  { skip },
  async () => {
    const seconds = process.env['OBD_FIO_SECONDS'] ?? '0';
    const run = await runInMachine(['env', `OBD_FIO_SECONDS=${seconds}`, 'test/vm/guest/writable'], {
      timeoutSeconds: 600 + 40 * Number(seconds),
    });
    assert.deepEqual(
      [run.status, run.output.trimEnd().split('\n').at(-1)],
      [0, 'passed'],
      run.output + run.messages,
    );
  },
);
