/** A node whose every container has a device of its own ("rwMode" in the configuration), with Debian's containerd and runc. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { emptied, noContainerd, startNode } from '../support/containerd-node.js';
import { fixture, noFixtures } from '../support/fixtures.js';

const run = promisify(execFile);
const skip = noContainerd || noFixtures;
const script = 'echo written >/file; cat /file; grep " / " /proc/mounts';

for (const [rwMode, writableLayerType] of [
  ['dir', 'append'],
  ['dev', 'sparse'],
] as const)
  test(
    `with rwMode ${rwMode} images are unpacked as ever, and run on devices`,
    { skip, timeout: 300_000 },
    async (t) => {
      const { dir, service, ctr } = await startNode(t, { rwMode, writableLayerType });
      for (const layout of ['oci-src', 'oci-obd']) {
        const archive = join(dir, `${layout}.tar`);
        await run('tar', ['-C', fixture('debian', layout), '-cf', archive, '.']);
        await ctr('image', 'import', '--snapshotter', 'overlaybd', archive);
        assert.deepEqual(await service.list(), [], 'unpacking makes no device');
        const image = (await ctr('image', 'ls', '-q')).trim();
        const flags = ['run', '--snapshotter', 'overlaybd', image];
        const [said, mount] = (await ctr(...flags, 'c', '/bin/sh', '-c', script)).trim().split('\n');
        assert.equal(said, 'written');
        assert.match(mount ?? '', layout === 'oci-obd' ? /^\/dev\/loop\d+ \/ ext4 rw/ : /^overlay /);
        const devices = await service.list();
        assert.deepEqual(
          devices.map(({ readOnly }) => readOnly),
          layout === 'oci-obd' ? [false] : [],
        );
        await ctr('containers', 'rm', 'c');
        await ctr('image', 'rm', '--sync', image);
        await emptied(join(dir, 'snapshots', 'snapshots'));
        assert.deepEqual(await service.list(), []);
      }
    },
  );
