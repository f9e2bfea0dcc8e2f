/** The service with the capabilities of its unit, and no way to more: it serves block devices all the same. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { randomLayer } from '../support/random-image.js';
import { ServiceNode } from '../support/service-node.js';

const skip =
  (process.getuid?.() !== 0 && 'needs root') ||
  missing({ setpriv: 'util-linux' }) ||
  ((await fuseUnsupported()) ?? false);

test('the service works with the capabilities of its unit', { skip }, async (t) => {
  const before = takeSnapshot();
  const unit = readFileSync(join(checkout, 'systemd/overlaybd-tcmu.service'), 'utf8');
  const names = /^CapabilityBoundingSet=(.*)$/m.exec(unit)?.[1]?.split(' ') ?? [];
  assert.ok(names.length > 3 && names.length < 15, names.join());
  const set = ['-all', ...names.map((name) => `+${name.replace('CAP_', '').toLowerCase()}`)].join(',');
  const node = await ServiceNode.start(t, {
    wrap: ['setpriv', '--no-new-privs', `--bounding-set=${set}`, `--inh-caps=-all`],
    config: { transport: 'fuse' },
  });
  const status = readFileSync(`/proc/${node.pid}/status`, 'utf8');
  assert.match(status, /^NoNewPrivs:\t1$/m);
  const bits = BigInt(`0x${/^CapEff:\t(\w+)$/m.exec(status)?.[1] ?? ''}`)
    .toString(2)
    .replaceAll('0', '').length;
  assert.ok(bits <= names.length, `${bits} capabilities in effect`);
  const layer = await randomLayer(1, 9);
  writeFileSync(node.at('layer'), layer.stored);
  const { devicePath = '' } = await node.attach(
    'x',
    node.image('x', { lowers: [{ file: node.at('layer') }] }),
    'fuse',
  );
  const device = await open(devicePath);
  const data = Buffer.alloc(layer.plain.length);
  await device.read(data, 0, data.length, 0);
  await device.close();
  assert.ok(data.equals(layer.plain));
  await node.client.detach('x');
  await node.kill();
  assert.deepEqual(await leftSince(before), []);
});
