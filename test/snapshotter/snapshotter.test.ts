import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { chmod, link, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { silentLogger } from '../../src/log/index.js';
import { Snapshotter, SnapshotsServer } from '../../src/snapshotter/index.js';
import { snapshotsHandlers } from '../../src/snapshotter/grpc-service.js';
import { parseSize } from '../../src/snapshotter/space-limits.js';
import { snapshotterSuite } from '../conformance/snapshotter.js';
import { CONFIG_DEFAULTS, startServer, type TestServer } from '../support/snapshots-client.js';
import { tempDir } from '../support/unpack.js';

snapshotterSuite('directories', (t) => startServer(t));

const snapshotsOf = ({ root }: TestServer): string => join(root, 'snapshots');
const indexOff = existsSync('/sys/module/overlay/parameters/index') ? ['index=off'] : [];

async function layers(server: TestServer, count: number): Promise<void> {
  for (let i = 1; i <= count; i++) {
    await server.client.prepare(`key-${i}`, i === 1 ? '' : `layer-${i - 1}`);
    await server.client.commit(`layer-${i}`, `key-${i}`);
  }
}

test('mounts of plain layers are those of containerd’s own overlayfs snapshotter', async (t) => {
  const server = await startServer(t);
  const { client } = server;
  const s = join(server.root, 'snapshots');
  const bind = (source: string, mode: string): unknown => [
    { type: 'bind', source, target: '', options: [mode, 'rbind'] },
  ];
  const overlay = (...options: string[]): unknown => [
    { type: 'overlay', source: 'overlay', target: '', options: [...indexOff, ...options] },
  ];
  assert.deepEqual(await client.prepare('key-1'), bind(`${s}/1/fs`, 'rw'));
  assert.deepEqual(await client.view('empty-view'), bind(`${s}/2/fs`, 'ro'));
  await client.commit('layer-1', 'key-1');
  assert.deepEqual(await client.view('view-1', 'layer-1'), bind(`${s}/1/fs`, 'ro'));
  assert.deepEqual(
    await client.prepare('key-2', 'layer-1'),
    overlay(`workdir=${s}/4/work`, `upperdir=${s}/4/fs`, `lowerdir=${s}/1/fs`),
  );
  await client.commit('layer-2', 'key-2');
  assert.deepEqual(await client.view('view-2', 'layer-2'), overlay(`lowerdir=${s}/4/fs:${s}/1/fs`));
  assert.deepEqual(
    await client.prepare('key-3', 'layer-2'),
    overlay(`workdir=${s}/6/work`, `upperdir=${s}/6/fs`, `lowerdir=${s}/4/fs:${s}/1/fs`),
  );
});

test('128 layers are mounted nearest first', async (t) => {
  const server = await startServer(t);
  await layers(server, 128);
  const [mount] = await server.client.prepare('top', 'layer-128');
  const lowers = mount?.options.at(-1)?.replace('lowerdir=', '').split(':') ?? [];
  assert.deepEqual(
    lowers,
    Array.from({ length: 128 }, (_, i) => join(server.root, 'snapshots', String(128 - i), 'fs')),
  );
});

test('modes of directories and socket do not depend on the umask', async (t) => {
  const before = process.umask(0o077);
  t.after(() => process.umask(before));
  const server = await startServer(t);
  await server.client.prepare('k');
  const mode = (path: string): number => statSync(path).mode & 0o777;
  assert.equal(mode(server.root), 0o700);
  assert.equal(mode(snapshotsOf(server)), 0o700);
  assert.equal(mode(join(snapshotsOf(server), '1')), 0o700);
  assert.equal(mode(join(snapshotsOf(server), '1', 'fs')), 0o755);
  assert.equal(mode(join(snapshotsOf(server), '1', 'work')), 0o711);
  assert.equal(mode(server.address), 0o600);
  assert.equal(mode(dirname(server.address)), 0o700);
});

test('usage counts blocks, and a file with two names once', async (t) => {
  const server = await startServer(t);
  await server.client.prepare('k');
  const fs = join(snapshotsOf(server), '1', 'fs');
  await mkdir(join(fs, 'd'));
  await writeFile(join(fs, 'd', 'file'), Buffer.alloc(100_000, 1));
  await link(join(fs, 'd', 'file'), join(fs, 'again'));
  await symlink('nowhere', join(fs, 'link'));
  const expected = ['', 'd', 'd/file'].reduce((sum, name) => sum + statSync(join(fs, name)).blocks * 512, 0);
  const usage = await server.client.usage('k');
  assert.equal(usage.inodes, 4);
  assert.ok(usage.size >= expected && usage.size <= expected + 4096); // the link may take a block
  await server.client.commit('c', 'k');
  await writeFile(join(fs, 'more'), Buffer.alloc(100_000, 1));
  assert.deepEqual(await server.client.usage('c'), usage);
});

test('image_ref holds the image’s reference, CRI’s first', async (t) => {
  const server = await startServer(t);
  const ref = (id: number): Promise<string> =>
    readFile(join(snapshotsOf(server), String(id), 'image_ref'), 'utf8');
  await server.client.prepare('a', '', { 'containerd.io/snapshot/image-ref': 'docker.io/a:1' });
  await server.client.prepare('b', '', {
    'containerd.io/snapshot/image-ref': 'docker.io/a:1',
    'containerd.io/snapshot/cri.image-ref': 'docker.io/b:1',
  });
  assert.deepEqual([await ref(1), await ref(2)], ['docker.io/a:1', 'docker.io/b:1']);
});

test('remove() takes the directory away, with what is in it', async (t) => {
  const server = await startServer(t);
  await server.client.prepare('k');
  await writeFile(join(snapshotsOf(server), '1', 'fs', 'file'), 'x');
  await chmod(join(snapshotsOf(server), '1', 'fs'), 0o500);
  await server.client.remove('k');
  assert.deepEqual(await readdir(snapshotsOf(server)), []);
});

test('with asyncRemove the directory goes at the next cleanup', async (t) => {
  const server = await startServer(t, { asyncRemove: true });
  const snapshots = join(server.root, 'snapshots');
  await server.client.prepare('k');
  await server.client.prepare('stays');
  await server.client.remove('k');
  assert.deepEqual((await readdir(snapshots)).sort(), ['1', '2']);
  await server.client.cleanup();
  assert.deepEqual(await readdir(snapshots), ['2']);
});

test('cleanup() removes what a crash left, and only that', async (t) => {
  const server = await startServer(t);
  await server.client.prepare('k');
  for (const name of ['new-7', '9', 'junk'])
    await mkdir(join(snapshotsOf(server), name, 'fs'), { recursive: true });
  await server.restart();
  // Numbers that are on disk are not given again, or a snapshot would begin with somebody else's files.
  await server.client.prepare('after');
  assert.ok(existsSync(join(snapshotsOf(server), '10')));
  await Promise.all([server.client.cleanup(), server.client.prepare('meanwhile'), server.client.cleanup()]);
  assert.deepEqual((await readdir(snapshotsOf(server))).sort(), ['1', '10', '11']);
});

test('numbers of removed snapshots are not given again, also not after a restart', async (t) => {
  const server = await startServer(t);
  await server.client.prepare('a');
  await server.client.prepare('b');
  await server.client.remove('b');
  await server.restart();
  await server.client.prepare('c');
  assert.deepEqual((await readdir(snapshotsOf(server))).sort(), ['1', '3']);
});

test('what fails to be made leaves no directory', async (t) => {
  const server = await startServer(t);
  await Promise.allSettled(Array.from({ length: 5 }, () => server.client.prepare('same')));
  assert.equal((await readdir(snapshotsOf(server))).length, 1);
});

test('what its caller does not wait for is not made: a snapshot, a view, a layer of a pull', async (t) => {
  const root = tempDir(t);
  const snapshotter = await Snapshotter.open({
    config: { ...CONFIG_DEFAULTS, root, address: '' },
    log: silentLogger,
  });
  t.after(() => snapshotter.close());
  const handlers = snapshotsHandlers(snapshotter, silentLogger);
  const call = (method: 'Prepare' | 'View', cancelled: boolean, labels: object): Promise<unknown> =>
    new Promise((resolve) => {
      const handler = handlers[method] as (call: object, reply: (error: unknown) => void) => void;
      const request = { key: 'k', parent: '', labels };
      handler({ request, cancelled }, (error) => {
        resolve((error as { details?: string } | null)?.details);
      });
    });
  const ref = { 'containerd.io/snapshot.ref': 'layer' };
  const remote = {
    ...ref,
    'containerd.io/snapshot/overlaybd/blob-digest': `sha256:${'a'.repeat(64)}`,
    'containerd.io/snapshot/overlaybd/blob-size': '4096',
    'containerd.io/snapshot/image-ref': 'registry.test/app:1',
  };
  for (const [method, labels, kept] of [
    ['Prepare', {}, 'k'],
    ['View', {}, 'k'],
    ['Prepare', ref, 'k'],
    ['Prepare', remote, 'layer'],
  ] as const) {
    assert.match(String(await call(method, true, labels)), /its caller went away/);
    assert.deepEqual([snapshotter.list([]), await readdir(join(root, 'snapshots'))], [[], []]);
    await call(method, false, labels);
    assert.deepEqual(
      snapshotter.list([]).map(({ name }) => name),
      [kept],
    );
    await snapshotter.remove(kept);
  }
});

test('a stale socket is replaced; one that is served is not', async (t) => {
  const server = await startServer(t);
  const snapshotter = await Snapshotter.open({
    config: { ...CONFIG_DEFAULTS, root: join(server.root, '..', 'other'), address: server.address },
    log: silentLogger,
  });
  t.after(() => snapshotter.close());
  await assert.rejects(SnapshotsServer.listen(server.address, snapshotter, silentLogger), {
    code: 'OBD_IO_EXISTS',
  });
  assert.ok(existsSync(server.address));
  const stale = join(dirname(server.address), 'stale.sock');
  // A process that is killed leaves its socket behind.
  spawnSync(process.execPath, [
    '-e',
    `require('net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'))`,
  ]);
  assert.ok(existsSync(stale));
  const second = await SnapshotsServer.listen(stale, snapshotter, silentLogger);
  await second.close();
});

test('a root of the reference’s snapshotter whose store is damaged is refused, not cleaned', async (t) => {
  const server = await startServer(t);
  const root = join(server.root, '..', 'reference');
  await mkdir(root);
  await writeFile(join(root, 'metadata.db'), 'bolt');
  await assert.rejects(
    Snapshotter.open({
      config: { ...CONFIG_DEFAULTS, root, address: '/unused' },
      log: silentLogger,
    }),
    { code: 'OBD_SNAPSHOT_METADATA' },
  );
});

test('sizes of quotas are those that people write', () => {
  const sizes = {
    '20g': 20 * 2 ** 30,
    '512M': 512 * 2 ** 20,
    '1.5k': 1536,
    '10GiB': 10 * 2 ** 30,
    '4096': 4096,
  };
  for (const [text, bytes] of Object.entries(sizes)) assert.equal(parseSize(text), bytes);
  for (const wrong of ['', '0', '-1', '20x', 'g', '1e3', '99999999t'])
    assert.equal(parseSize(wrong), undefined);
});
