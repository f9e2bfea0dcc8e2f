/**
 * NBD devices outlive the service: it is killed, and ended in good order, while fio writes to and verifies a disk that QEMU
 * shows as a file and reaches over NBD (`reconnect-delay`). OBD_KILL_ROUNDS=100 for as many kills; default 4.
 */
import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { AdminClient } from '../../src/service/index.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const rounds = Number(process.env['OBD_KILL_ROUNDS'] ?? 4);
const skip =
  (process.getuid?.() !== 0 && 'needs root') ||
  (!existsSync('/dev/fuse') && 'needs /dev/fuse') ||
  missing({ 'qemu-storage-daemon': 'qemu-system-common', fio: 'fio' });

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 600; i++) {
    if (await condition()) return;
    await sleep(50);
  }
  throw new Error(`Waited 30 s for: ${what}`);
}

test(
  'an NBD device outlives kills and restarts of the service under fio --verify: no I/O error, no wrong byte',
  { skip, timeout: 60_000 + rounds * 30_000 },
  async (t) => {
    const cleanUp: (() => Promise<void>)[] = [];
    // Before the directory goes, the newest first.
    t.after(async () => {
      for (const step of cleanUp.toReversed()) await step();
    });
    const dir = tempDir(t);
    const at = (name: string): string => join(dir, name);
    const socket = at('run/o.sock');
    mkdirSync(at('run'));
    writeFileSync(
      at('overlaybd.json'),
      JSON.stringify({
        apiSocket: socket,
        transport: 'nbd',
        logConfig: { logPath: at('log'), logLevel: 2 },
        cacheConfig: { cacheType: 'file', cacheDir: at('cache'), cacheSizeGB: 1, refillSize: 262144 },
      }),
    );
    await run(join(checkout, 'bin', 'overlaybd-create'), [at('data'), at('index'), '1']);
    writeFileSync(at('disk.json'), JSON.stringify({ upper: { data: at('data'), index: at('index') } }));

    let service: ChildProcess;
    const start = async (): Promise<void> => {
      service = spawn(
        process.execPath,
        [join(checkout, 'bin', 'overlaybd-tcmu'), at('overlaybd.json'), '--state-dir', at('state')],
        { stdio: 'ignore' },
      );
      const client = new AdminClient(socket);
      await until('the service', () =>
        client.info().then(
          ({ pid }) => pid === service.pid,
          () => false,
        ),
      );
    };
    const end = async (signal: NodeJS.Signals): Promise<void> => {
      service.kill(signal);
      if (service.exitCode === null && service.signalCode === null) await once(service, 'exit');
    };
    await start();
    cleanUp.push(() => end('SIGKILL'));
    const client = new AdminClient(socket);
    const { devicePath } = await client.attach({ configPath: at('disk.json'), id: 'disk' });
    assert.equal(devicePath, at('run/nbd/disk.sock'));

    writeFileSync(at('disk'), '');
    const node = { driver: 'nbd', 'node-name': 'disk', 'reconnect-delay': 300 };
    const qemu = spawn(
      'qemu-storage-daemon',
      [
        ...['--blockdev', JSON.stringify({ ...node, server: { type: 'unix', path: devicePath } })],
        ...['--export', `type=fuse,id=e,node-name=disk,mountpoint=${at('disk')},writable=on`],
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    );
    const isOver = (): boolean => qemu.exitCode !== null || qemu.signalCode !== null;
    cleanUp.push(async () => {
      qemu.kill('SIGTERM');
      for (let i = 0; i < 50 && !isOver(); i++) await sleep(100);
      if (!isOver()) qemu.kill('SIGKILL');
      await run('umount', ['-l', at('disk')]).catch(() => undefined);
    });
    await until('the disk as a file', () => statSync(at('disk')).size === 1 << 30);

    let going = true as boolean;
    let verified = 0;
    const load = (async () => {
      for (let n = 1; going; n++, verified++)
        await run('fio', [
          ...['--name=load', `--filename=${at('disk')}`, '--ioengine=psync', '--numjobs=1', '--rw=randwrite'],
          ...['--bsrange=4k-64k', '--size=8m', '--fsync=64', '--verify=crc32c', '--verify_fatal=1'],
          ...['--direct=1', `--randseed=${n}`, '--minimal'],
        ]);
    })();
    load.catch(() => (going = false));
    for (let round = 1; round <= rounds && going; round++) {
      await sleep(Math.random() * 700);
      // One in four is an upgrade: the service ends in good order, and its successor goes on.
      await end(round % 4 === 0 ? 'SIGTERM' : 'SIGKILL');
      await start();
      const [device] = await client.list();
      assert.equal(device?.id, 'disk');
      const before = verified;
      if (round % 10 === 0) await until('fio to go on', () => verified > before || !going);
    }
    going = false;
    await load;
    t.diagnostic(`${rounds} ends of the service, ${verified} runs of fio verified`);
    assert.ok(verified > 0);
    const [device] = await client.list();
    assert.deepEqual([device?.state, device?.errors], ['ready', 0]);

    await cleanUp.pop()?.(); // QEMU
    await client.detach('disk');
    await end('SIGTERM');
    assert.equal(existsSync(at('run/nbd')), false, 'nothing is left of the device');
  },
);
