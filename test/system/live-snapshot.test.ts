/** Live snapshots of a device through FUSE under a verified load; through TCMU: test/vm/guest/live-snapshots. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const reason = await fuseUnsupported();
const skip =
  reason === undefined
    ? missing({ fio: 'fio', curl: 'curl', python3: 'python3' })
    : `FUSE and loop devices: ${reason}`;

test('Snapshots of a FUSE device are taken under a verified load, and opened again', { skip }, async (t) => {
  const before = takeSnapshot();
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  const flags = ['--service-config', at('service.json'), '--state-dir', at('state')];
  const tool = async (name: string, ...args: string[]): Promise<string> =>
    (await run(process.execPath, [join(checkout, 'bin', name), ...args])).stdout.trim();
  writeFileSync(
    at('service.json'),
    JSON.stringify({
      apiSocket: at('run/o.sock'),
      transport: 'fuse',
      logConfig: { logPath: at('log') },
      serviceConfig: { enable: true },
    }),
  );
  await tool('overlaybd-create', at('data'), at('index'), '1');
  writeFileSync(
    at('image.json'),
    JSON.stringify({ lowers: [], upper: { data: at('data'), index: at('index') } }),
  );
  const attached = async (use: (device: string) => Promise<void>): Promise<void> => {
    const device = await tool('obd', 'attach', at('image.json'), '--name', 'snap', ...flags);
    try {
      await use(device);
    } finally {
      await tool('obd', 'detach', device, ...flags);
      for (let i = 0; i < 600 && existsSync(at('run')); i++) await sleep(50);
    }
  };
  const script = join(checkout, 'test', 'support', 'snapshot-under-load');
  let sum: string | undefined;
  await attached(async (device) => {
    const said = await run(script, [device, 'snap', dir, ...flags]).catch((error: unknown) => {
      throw new Error(
        `${(error as { stdout?: string }).stdout}${readFileSync(at('log'), 'utf8').slice(-3000)}`,
        {
          cause: error,
        },
      );
    });
    const lines = said.stdout.trimEnd().split('\n');
    assert.equal(lines.at(-1), 'passed', said.stdout);
    sum = lines[0];
    t.diagnostic(said.stderr.trim());
  });
  const { lowers } = JSON.parse(readFileSync(at('image.json'), 'utf8')) as { lowers: unknown[] };
  assert.equal(lowers.length, Number(process.env['OBD_SNAPSHOTS'] ?? 4));
  await attached(async (device) => {
    const { stdout } = await run('sh', ['-c', `dd if=${device} bs=1M count=64 status=none | sha256sum`]);
    assert.equal(stdout.trim(), sum);
  });
  assert.deepEqual(await leftSince(before), []);
});
