/** `obd doctor` on a node with everything: Debian's containerd, our snapshotter and service. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import { diagnose, type DoctorOptions } from '../../src/doctor/index.js';
import { noContainerd, startNode } from '../support/containerd-node.js';

test(
  'obd doctor finds nothing wrong with a node that works',
  { skip: noContainerd, timeout: 300_000 },
  async (t) => {
    const { dir, address, service } = await startNode(t);
    const { version } = await service.info();
    const options: DoctorOptions = {
      serviceConfig: join(dir, 'overlaybd.json'),
      snapshotterConfig: join(dir, 'config.json'),
      containerdAddress: address,
      containerdConfig: join(dir, 'containerd.toml'),
      containerdProgram: 'containerd',
      version,
      timeoutMs: 60_000,
    };
    const { findings, devices } = await diagnose(options);
    // The machine's kernel, and what the disk below it has left, are not the node's.
    const others = ['kernel', 'configfs', 'cache directory'];
    const wrong = findings.filter(({ part, status }) => status !== 'ok' && !others.includes(part));
    assert.deepEqual(wrong, []);
    assert.ok(findings.some(({ detail }) => detail.includes('has snapshotter "overlaybd"')));
    assert.deepEqual(devices, []);
  },
);
