/**
 * A node whose first process is systemd: the units as `obd install` writes them, and what containers find after a reboot.
 * By hand: the head of guest/reboot.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { missing } from '../support/commands.js';
import { fixturesDir, noFixtures } from '../support/fixtures.js';
import { insideMachine, noMachine, runInMachine } from './machine.js';

const skip =
  noMachine ||
  noFixtures ||
  missing({ containerd: 'containerd', ctr: 'containerd', runc: 'runc', systemctl: 'systemd' });

test(
  'containers outlive restarts under systemd, do not hold a shutdown up, and go on after the reboot',
  {
    skip,
  },
  async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'obd-reboot-'));
    t.after(() => rm(dir, { recursive: true }));
    for (const phase of ['first', 'second']) {
      const run = await runInMachine(['test/vm/guest/reboot', phase, insideMachine(fixturesDir ?? '/')], {
        systemd: true,
        disk: join(dir, 'disk'),
        timeoutSeconds: 600,
      });
      assert.deepEqual(
        [run.status, run.output.trimEnd().split('\n').at(-1)],
        [0, 'passed'],
        run.output + run.messages,
      );
      // The machine went down by itself; a hang would have been ended by --timeout, whatever the status was.
      assert.doesNotMatch(run.messages, /--timeout/);
    }
  },
);
