/** Debian's containerd and runc on our snapshotter and service: an ordinary image and one in overlaybd format. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { openImageSource, openImageTarget, resolveManifest, type Descriptor } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { AdminClient } from '../../src/service/index.js';
import { missing } from '../support/commands.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { Code, TestClient } from '../support/snapshots-client.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const reason = await fuseUnsupported();
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : reason !== undefined
      ? `FUSE and loop devices: ${reason}`
      : missing({ containerd: 'containerd', ctr: 'containerd', runc: 'runc' }) || noFixtures;

/** containerd, the snapshotter and the service, with everything below one directory. */
async function startNode(
  t: TestContext,
  snapshotterConfig: object = {},
): Promise<{
  readonly dir: string;
  readonly service: AdminClient;
  readonly ctr: (...args: string[]) => Promise<string>;
}> {
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
  const start = (program: string, ...args: string[]): void => {
    children.push(spawn(program, args, { stdio: 'ignore' }));
  };
  const bin = (name: string): string => join(checkout, 'bin', name);
  start(bin('overlaybd-tcmu'), at('overlaybd.json'), '--state-dir', at('state'));
  start(bin('overlaybd-snapshotter'), at('config.json'));
  start('containerd', '-c', at('containerd.toml'));
  const ctr = async (...args: string[]): Promise<string> =>
    (await run('ctr', ['-a', at('c.sock'), ...args], { timeout: 120_000 })).stdout;
  const service = new AdminClient(at('o/o.sock'));
  // containerd does not wait for the socket of a plugin.
  const snapshotter = new TestClient(config.address);
  t.after(() => {
    snapshotter.close();
  });
  for (let n = 0; ; n++)
    try {
      await service.info();
      await snapshotter.list();
      await ctr('snapshots', '--snapshotter', 'overlaybd', 'ls');
      return { dir, service, ctr };
    } catch (error) {
      if (n === 100) throw error;
      await sleep(200);
    }
}

/** Copies the image's layers to a registry. */
async function push(host: string, layout: string): Promise<readonly Descriptor[]> {
  const client = new RegistryClient({ plainHttpHosts: [host] });
  try {
    const source = openImageSource(`oci:${layout}`, client);
    const target = openImageTarget(`docker://${host}/team/debian:obd`, client);
    const { manifest } = await resolveManifest(source);
    for (const part of manifest.layers) {
      const blob = await source.openBlob(part);
      await target.pushBlob(part, blob);
      await blob.close();
    }
    return manifest.layers;
  } finally {
    await client.close();
  }
}

/** Waits for containerd's garbage collection. */
async function emptied(directory: string): Promise<void> {
  for (let n = 0; (await readdir(directory)).length > 0 && n < 50; n++) await sleep(100);
  assert.deepEqual(await readdir(directory), []);
}

const images = [
  { name: 'an ordinary image', layout: 'oci-src', devices: 0 },
  { name: 'an image in overlaybd format', layout: 'oci-obd', devices: 1 },
];
for (const { name, layout, devices } of images)
  test(`containerd runs ${name}, and removes it without a trace`, { skip, timeout: 300_000 }, async (t) => {
    const { dir, service, ctr } = await startNode(t);
    const archive = join(dir, 'image.tar');
    await run('tar', ['-C', fixture('debian', layout), '-cf', archive, '.']);
    await ctr('image', 'import', '--snapshotter', 'overlaybd', archive);
    assert.equal((await service.list()).length, 0);
    const image = (await ctr('image', 'ls', '-q')).trim();
    const script = 'cat /etc/debian_version; echo written > /file; cat /file';
    const outputs = await Promise.all(
      Array.from({ length: 5 }, (_, i) =>
        ctr('run', '--rm', '--snapshotter', 'overlaybd', image, `c${i}`, '/bin/sh', '-c', script),
      ),
    );
    for (const output of outputs) assert.match(output, /^\d+\.\d+\nwritten\n$/);
    assert.equal((await service.list()).length, devices);
    await ctr('image', 'rm', '--sync', image);
    await emptied(join(dir, 'snapshots', 'snapshots'));
    assert.deepEqual(await service.list(), []);
  });

test(
  'containerd takes layers as pulled that were never fetched, and runs them',
  { skip, timeout: 300_000 },
  async (t) => {
    const layout = fixture('debian', 'oci-obd');
    const registry = await startRegistryServer({ directory: tempDir(t) });
    t.after(() => registry[Symbol.asyncDispose]());
    const layers = await push(registry.host, layout);
    const { dir, service, ctr } = await startNode(t, {
      mirrorRegistry: [{ host: registry.host, insecure: true }],
    });
    const archive = join(dir, 'image.tar');
    await run('tar', ['-C', layout, '-cf', archive, '.']);
    await ctr('image', 'import', '--no-unpack', archive);
    const image = (await ctr('image', 'ls', '-q')).trim();
    // The pull itself, as the CRI plugin's unpacker does it, through containerd.
    const containerd = new TestClient(join(dir, 'c.sock'), {
      snapshotter: 'overlaybd',
      namespace: 'default',
    });
    t.after(() => {
      containerd.close();
    });
    let parent = '';
    for (const { digest, size } of layers) {
      const hash = createHash('sha256').update(`${parent} ${digest}`).digest('hex');
      const chain = parent === '' ? digest : `sha256:${hash}`;
      const labels = {
        'containerd.io/gc.root': 'test',
        'containerd.io/snapshot.ref': chain,
        'containerd.io/snapshot/image-ref': `${registry.host}/team/debian:obd`,
        'containerd.io/snapshot/overlaybd/blob-digest': digest,
        'containerd.io/snapshot/overlaybd/blob-size': String(size),
      };
      await assert.rejects(containerd.prepare(`extract-1 ${chain}`, parent, labels), { code: Code.EXISTS });
      assert.equal((await containerd.stat(chain)).parent, parent);
      parent = chain;
    }
    const output = await ctr(
      ...['run', '--rm', '--snapshotter', 'overlaybd', image, 'lazy', '/bin/cat', '/etc/debian_version'],
    );
    assert.match(output, /^\d+\.\d+\n$/);
    const [device] = await service.list();
    const whole = layers.reduce((sum, { size }) => sum + size, 0);
    assert.ok(device !== undefined && device.bytesFetched > 0 && device.bytesFetched < whole / 2);
    for (; parent !== '';) {
      const { parent: next } = await containerd.stat(parent);
      await containerd.remove(parent);
      parent = next;
    }
    await ctr('image', 'rm', '--sync', image); // and its garbage collection
    await emptied(join(dir, 'snapshots', 'snapshots'));
    assert.deepEqual(await service.list(), []);
  },
);
