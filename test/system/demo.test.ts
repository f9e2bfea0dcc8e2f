/** scripts/demo with the Debian image of the golden set: on this machine, and in one whose kernel has TCMU. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';

import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { insideMachine, noMachine, runInMachine } from '../vm/machine.js';

const skip = noFixtures || (process.getuid?.() !== 0 && 'devices and mounts need root');
const demo = join(checkout, 'scripts', 'demo');

/** What the table must say: the program ran, out of a device that was far from complete. */
function assertShown(output: string, device: RegExp): void {
  assert.match(output, /PRETTY_NAME="Debian GNU\/Linux 12/);
  assert.match(output, device);
  const share = Number(/([\d.]+) % in all/.exec(output)?.[1]);
  assert.ok(share > 0 && share < 50, `${String(share)} % of the image fetched\n${output}`);
}

describe('scripts/demo', { skip }, () => {
  const image = noFixtures ? '' : `oci:${fixture('debian', 'oci-src')}:debian-slim`;

  test('serves an image lazily on this machine and leaves nothing', async () => {
    const before = takeSnapshot();
    const { stdout } = await promisify(execFile)(demo, [image], { cwd: '/' });
    assertShown(stdout, /\/dev\/(loop\d+ by fuse|sd\w+ by tcmu)/);
    const left = (await leftSince(before)).filter((line) => line.includes('overlaybd-demo'));
    assert.deepEqual(left, []);
    assert.deepEqual(
      readdirSync(tmpdir()).filter((name) => name.startsWith('overlaybd-demo')),
      [],
    );
  });

  test('serves it through TCMU where the kernel has it', { skip: noMachine }, async () => {
    const image = `oci:${insideMachine(fixture('debian', 'oci-src'))}:debian-slim`;
    const run = await runInMachine(['sh', '-c', `scripts/demo "$1" && ls /tmp`, '-', image]);
    assert.equal(run.status, 0, run.output + run.messages);
    assertShown(run.output, /\/dev\/sd\w+ by tcmu/);
    assert.doesNotMatch(run.output, /^overlaybd-demo/m, 'its directory is gone');
  });
});
