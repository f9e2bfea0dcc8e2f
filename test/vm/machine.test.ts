import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';

import { checkout } from '../support/fixtures.js';
import { noMachine, runInMachine, succeedInMachine, vmProgram } from './machine.js';

/** Ids of the processes whose command line holds the mark, here the shared directory that a machine is booted with. */
function processesMarked(mark: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${String(pid)}/cmdline`, 'utf8').includes(mark);
      } catch {
        return false;
      }
    });
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (condition()) return;
    await sleep(100);
  }
  throw new Error(`Waited 30 s for: ${what}`);
}

describe('vm run', { skip: noMachine }, () => {
  let share: string;
  before(() => {
    share = mkdtempSync(join(tmpdir(), 'obd-vm-test.'));
  });
  after(() => {
    rmSync(share, { recursive: true });
  });

  test("passes the command's words, output and exit status on", async () => {
    const run = await runInMachine(['sh', '-c', 'echo "$1"; echo err >&2; pwd; exit 7', '-', "two  words'"]);
    assert.deepEqual([run.status, run.output], [7, `two  words'\nerr\n${checkout}\n`], run.messages);
  });

  test('has a kernel with TCMU, loop and configfs, and the checkout in place', async () => {
    const output = await succeedInMachine([
      'sh',
      '-ec',
      'modprobe target_core_user; modprobe tcm_loop; modprobe loop; modprobe ext4' +
        '; ls -d /sys/kernel/config/target/core /dev/loop-control; head -c 20 package.json >/dev/null',
    ]);
    assert.equal(output, '/dev/loop-control\n/sys/kernel/config/target/core\n');
  });

  test("changes the caller's machine in the shared directory only", async () => {
    await succeedInMachine(
      ['sh', '-ec', 'echo in >/vm/result; touch README.md.vm /usr/made-in-vm /tmp/made-in-vm'],
      { share },
    );
    assert.equal(readFileSync(join(share, 'result'), 'utf8'), 'in\n');
    for (const path of [join(checkout, 'README.md.vm'), '/usr/made-in-vm', '/tmp/made-in-vm'])
      assert.equal(existsSync(path), false, path);
  });

  test('ends with 124 and without processes when its time is up', async () => {
    const own = join(share, 'timeout');
    writeFileSync(own, '');
    const run = await runInMachine(['sh', '-c', 'echo started; sleep 60'], { share, timeoutSeconds: 4 });
    assert.deepEqual([run.status, run.output], [124, 'started\n'], run.messages);
    assert.deepEqual(processesMarked(share), []);
  });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGKILL'] as const) {
    test(`leaves no process behind after ${signal}`, async () => {
      const ready = join(share, `ready-${signal}`);
      const child = spawn(
        vmProgram,
        ['run', '--share', share, '--', 'sh', '-c', `touch /vm/ready-${signal}; sleep 60`],
        {
          stdio: 'ignore',
        },
      );
      await until('the machine to be up', () => existsSync(ready));
      assert.notDeepEqual(processesMarked(share), []);
      child.kill(signal);
      await until('the processes to go away', () => processesMarked(share).length === 0);
    });
  }

  test("shows the kernel's last words when it dies", async () => {
    const run = await runInMachine(['sh', '-c', 'echo c >/proc/sysrq-trigger; sleep 60']);
    assert.equal(run.status, 125);
    assert.match(run.messages, /sysrq triggered crash/);
  });

  test(
    'boots under QEMU too, with two CPUs',
    { skip: !existsSync('/usr/bin/qemu-system-x86_64') && 'needs the package qemu-system-x86' },
    async () => {
      const run = await runInMachine(['sh', '-ec', 'nproc; modprobe target_core_user; exit 9'], {
        qemu: true,
      });
      assert.deepEqual([run.status, run.output], [9, '2\n'], run.messages);
    },
  );

  test(
    "starts a container with Debian's containerd and runc",
    {
      skip:
        !['/usr/bin/containerd', '/usr/sbin/runc'].every((path) => existsSync(path)) &&
        'needs the packages containerd and runc',
    },
    async () => {
      const run = await runInMachine(['test/vm/guest/run-container', 'echo "I am process $$"; exit 9']);
      assert.deepEqual([run.status, run.output], [9, 'I am process 1\n'], run.messages);
    },
  );
});
