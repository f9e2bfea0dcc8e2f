/**
 * The service and real TCMU devices, in a machine each. The scripts are in guest/ and can be run by hand:
 *
 *     test/vm/vm run -- test/vm/guest/serve-local FIXTURES
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { missing } from '../support/commands.js';
import { fixturesDir, noFixtures } from '../support/fixtures.js';
import { insideMachine, noMachine, runInMachine } from './machine.js';

const scenarios: Readonly<Record<string, string>> = {
  'serve-local':
    'a device made through configfs by hand equals the golden dump, its files the golden tree, and nothing is left of it',
  'serve-registry': 'an image in a registry comes up before its data is here, and every byte of it is right',
  'restart-under-io':
    'reads outlive SIGKILL of the service and go on after its restart, without an I/O error',
  'restart-under-fetch':
    'readers that wait for the registry outlive SIGKILL of the service, five times, and every file is right',
  'restart-under-writes':
    'writes outlive SIGKILL of the service: all that was acknowledged is there, and the file system is clean',
  'live-snapshots':
    'live snapshots are taken by dev_id under a verified load, and SIGKILL in the middle of one loses nothing',
  adopt: 'a new service adopts the devices of the one before, those that fail at first included',
  'adopt-late':
    'devices whose images do not open after a restart are reported, fail or hold their I/O, can be aborted, and recover',
  'kill-under-fio':
    'a writable device outlives SIGKILL of the service under fio --verify, without an I/O error or a wrong byte',
  'many-creates': 'devices enabled at the same moment through configfs are all answered',
  'many-devices': 'twenty devices are created, read and removed at once',
  'obd-attach':
    'obd without a service mounts through TCMU and FUSE, survives SIGKILL of what it started, and leaves nothing',
  'failing-image': 'an image that cannot be opened fails the write to enable, says why, and leaves nothing',
};

/** With Debian's containerd and runc, and the snapshotter. */
const nodeScenarios: Readonly<Record<string, string>> = {
  'containerd-modes':
    'containerd runs a lazily pulled image through an overlay, a directory and a device; what was written is committed and runs',
  installed:
    'obd install sets a machine up, obd doctor finds nothing wrong, a container runs, and nothing is left after --uninstall',
  'containerd-restarts':
    'ten containers read and write on while the service, the snapshotter and containerd are killed or restarted',
};
/** Longer runs: `OBD_KILL_ROUNDS=100 OBD_CREATES=200 scripts/test vm/tcmu`. */
const killRounds = Number(process.env['OBD_KILL_ROUNDS'] ?? 4);
const settings = [`OBD_KILL_ROUNDS=${killRounds}`, `OBD_CREATES=${process.env['OBD_CREATES'] ?? '60'}`];
const noSuite = missing({ go: 'golang-go' });
const noContainerd = missing({ containerd: 'containerd', ctr: 'containerd', runc: 'runc' });

describe('overlaybd-tcmu in a kernel with TCMU', { skip: noMachine }, () => {
  for (const [script, behaviour] of Object.entries({ ...scenarios, ...nodeScenarios })) {
    const skip = noFixtures || (script in nodeScenarios && noContainerd);
    test(behaviour, { skip }, async () => {
      const run = await runInMachine(
        ['env', ...settings, `test/vm/guest/${script}`, insideMachine(fixturesDir ?? '/')],
        { timeoutSeconds: 300 + 30 * killRounds },
      );
      assert.deepEqual(
        [run.status, run.output.trimEnd().split('\n').at(-1)],
        [0, 'passed'],
        run.output + run.messages,
      );
    });
  }

  test('containers have quotas there, on a file system with project quota', async () => {
    const quotaTest = 'dist/test/system/snapshotter-quota.test.js';
    const run = await runInMachine(
      ['sh', '-c', `modprobe -a loop quota_v2 && exec node --test --test-reporter=tap ${quotaTest}`],
      { timeoutSeconds: 120 },
    );
    assert.equal(run.status, 0, run.output + run.messages);
    assert.match(run.output, /^# skipped 0/m);
  });

  test('devices come and go there, and the service keeps nothing of them', async () => {
    const run = await runInMachine(
      [
        'env',
        'OBD_SOAK_TRANSPORT=tcmu',
        'node',
        '--test',
        '--test-reporter=tap',
        'dist/test/faults/soak.test.js',
      ],
      { timeoutSeconds: 240 },
    );
    assert.equal(run.status, 0, run.output + run.messages);
  });

  // Devices are made, written to, flushed and removed beside each other, while paths are looked up in configfs.
  test("containerd's conformance suite passes on writable TCMU devices", { skip: noSuite }, async () => {
    const suiteTest = 'dist/test/system/snapshotter-suite.test.js';
    const run = await runInMachine(
      [
        'sh',
        '-c',
        `modprobe -a target_core_user tcm_loop sd_mod loop overlay &&
         OBD_SUITE_TRANSPORT=tcmu exec node --test --test-reporter=tap --test-name-pattern='passes: dir' ${suiteTest}`,
      ],
      { timeoutSeconds: 600 },
    );
    assert.equal(run.status, 0, run.output + run.messages);
    assert.match(run.output, /^# pass 1$/m);
  });

  test('the front end passes its own tests there', async () => {
    const run = await runInMachine(
      [
        'env',
        `OBD_FIXTURES=${insideMachine(fixturesDir ?? '/')}`,
        ...['node', '--test', '--test-reporter=tap', 'dist/test/system/tcmu.test.js'],
      ],
      {
        timeoutSeconds: 300,
      },
    );
    assert.equal(run.status, 0, run.output + run.messages);
    assert.match(run.output, /^# pass \d\d/m, 'it found its kernel');
  });
});
