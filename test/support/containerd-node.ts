/** A machine's set-up of containerd with our snapshotter and service, all of it below one directory. */
import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { AdminClient } from '../../src/service/index.js';
import { missing } from './commands.js';
import { checkout } from './fixtures.js';
import { leftSince, takeSnapshot } from './leaks.js';
import { TestClient } from './snapshots-client.js';
import { tempDir } from './unpack.js';

const run = promisify(execFile);
const reason = await fuseUnsupported();

/** For node:test's `skip`. */
export const noContainerd: string | false =
  process.getuid?.() !== 0
    ? 'needs root'
    : reason !== undefined
      ? `FUSE and loop devices: ${reason}`
      : missing({ containerd: 'containerd', ctr: 'containerd', runc: 'runc' });

/** What runs. */
export interface ContainerdNode {
  readonly dir: string;
  /** containerd's socket. */
  readonly address: string;
  readonly service: AdminClient;
  /** Process of the snapshotter. */
  readonly snapshotter: ChildProcess;
  readonly ctr: (...args: string[]) => Promise<string>;
}

/** Starts containerd, the snapshotter and the service; they end with the test, which then has leaked nothing. */
export async function startNode(
  t: TestContext,
  snapshotterConfig: object = {},
  serviceConfig: object = {},
): Promise<ContainerdNode> {
  const before = takeSnapshot();
  let remove = (): unknown => undefined;
  const dir = tempDir({ after: (work) => (remove = work as () => unknown) });
  const at = (name: string): string => join(dir, name);
  const children: ChildProcess[] = [];
  t.after(async () => {
    for (const child of children.reverse()) {
      if (child.exitCode !== null) continue;
      child.kill('SIGTERM');
      await once(child, 'exit');
    }
    for (const line of (await readFile('/proc/self/mounts', 'utf8')).split('\n').reverse()) {
      const target = line.split(' ')[1];
      if (target?.startsWith(`${dir}/`) === true) await run('umount', ['-l', target]).catch(() => undefined);
    }
    remove();
    assert.deepEqual(await leftSince(before), []);
  });
  await writeFile(
    at('overlaybd.json'),
    JSON.stringify({
      apiSocket: at('o/o.sock'),
      transport: 'fuse',
      logConfig: { logPath: at('service.log') },
      cacheConfig: { cacheType: 'file', cacheDir: at('cache'), cacheSizeGB: 1 },
      ...serviceConfig,
    }),
  );
  const config = {
    root: at('snapshots'),
    address: at('s/s.sock'),
    serviceConfig: at('overlaybd.json'),
    ...snapshotterConfig,
  };
  await writeFile(at('config.json'), JSON.stringify(config));
  await writeFile(
    at('containerd.toml'),
    `version = 2
root = "${at('c-root')}"
state = "${at('c-state')}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "${at('c.sock')}"
[ttrpc]
  address = "${at('c.sock.ttrpc')}"
[proxy_plugins.overlaybd]
  type = "snapshot"
  address = "${config.address}"
`,
  );
  const start = (program: string, ...args: string[]): ChildProcess => {
    const child = spawn(program, args, { stdio: 'ignore' });
    children.push(child);
    return child;
  };
  const bin = (name: string): string => join(checkout, 'bin', name);
  start(bin('overlaybd-tcmu'), at('overlaybd.json'), '--state-dir', at('state'));
  const snapshotter = start(bin('overlaybd-snapshotter'), at('config.json'));
  start('containerd', '-c', at('containerd.toml'));
  const ctr = async (...args: string[]): Promise<string> =>
    (await run('ctr', ['-a', at('c.sock'), ...args], { timeout: 120_000 })).stdout;
  const service = new AdminClient(at('o/o.sock'));
  // containerd does not wait for the socket of a plugin.
  const snapshots = new TestClient(config.address);
  t.after(() => {
    snapshots.close();
  });
  for (let n = 0; ; n++)
    try {
      await service.info();
      await snapshots.list();
      await ctr('snapshots', '--snapshotter', 'overlaybd', 'ls');
      return { dir, address: at('c.sock'), service, snapshotter, ctr };
    } catch (error) {
      if (n === 100) throw error;
      await sleep(200);
    }
}

/** Waits for containerd's garbage collection. */
export async function emptied(directory: string): Promise<void> {
  for (let n = 0; (await readdir(directory)).length > 0 && n < 300; n++) await sleep(100);
  assert.deepEqual(await readdir(directory), []);
}
