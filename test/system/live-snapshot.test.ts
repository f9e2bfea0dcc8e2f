/** Live snapshots of a device through FUSE or NBD under a verified load; through TCMU: test/vm/guest/live-snapshots. */
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
const programs = { fio: 'fio', curl: 'curl', python3: 'python3' };
const reason = await fuseUnsupported();
const SKIP = {
  fuse: reason === undefined ? missing(programs) : `FUSE and loop devices: ${reason}`,
  nbd: missing({ ...programs, 'qemu-img': 'qemu-utils' }),
} as const;

/** The first 64 MiB. */
async function sumOf(device: string, transport: string, dir: string): Promise<string> {
  if (transport !== 'nbd')
    return (await run('sh', ['-c', `dd if=${device} bs=1M count=64 status=none | sha256sum`])).stdout.trim();
  const to = join(dir, 'again');
  const from = `nbd+unix:///?socket=${device}`;
  await run('qemu-img', ['dd', '-f', 'raw', '-O', 'raw', 'bs=1M', 'count=64', `if=${from}`, `of=${to}`]);
  return (await run('sh', ['-c', `sha256sum <${to}`])).stdout.trim();
}

/** The fewest that go both ways, over NBD. */
const ROUNDS = {
  fuse: process.env['OBD_SNAPSHOTS'] ?? '4',
  nbd: process.env['OBD_SNAPSHOTS'] ?? '2',
} as const;

for (const transport of ['fuse', 'nbd'] as const)
  test(
    `Snapshots of a device are taken under a verified load through ${transport}, and opened again`,
    { skip: SKIP[transport] },
    async (t) => {
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
          transport,
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
        const said = await run(script, [device, 'snap', dir, ...flags], {
          env: { ...process.env, OBD_SNAPSHOTS: ROUNDS[transport] },
        }).catch((error: unknown) => {
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
      assert.equal(lowers.length, Number(ROUNDS[transport]));
      await attached(async (device) => {
        assert.equal(await sumOf(device, transport, dir), sum);
      });
      assert.deepEqual(await leftSince(before), []);
    },
  );
