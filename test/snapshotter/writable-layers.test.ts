/** Commits of writable devices that fail or crash half-way, on a host that has no devices at all. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { link, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { layerTools } from '../../src/cli/snapshot-layers.js';
import { openSealedLayer } from '../../src/lsmt/index.js';
import { FileBlob } from '../../src/blob/index.js';
import type { DeviceHost, LayerTools } from '../../src/snapshotter/index.js';
import { Code, startServer, type TestServer } from '../support/snapshots-client.js';
import { tempDir } from '../support/unpack.js';

const OBD = 'containerd.io/snapshot/overlaybd';
const DIR = { [`${OBD}.writable`]: 'dir', [`${OBD}/vsize`]: '1' };

/** Devices that exist on paper: what is attached, and what is mounted where. */
function paperHost(): DeviceHost & { readonly attached: Set<string>; readonly mounted: Map<string, string> } {
  const attached = new Set<string>();
  const mounted = new Map<string, string>();
  return {
    attached,
    mounted,
    attach: async (id, configPath) => {
      attached.add(configPath);
      return `/dev/paper${id}`;
    },
    detach: async (configPath) => void attached.delete(configPath),
    isDead: async () => false,
    fileSystemOf: async () => 'ext4',
    makeFileSystem: async () => undefined,
    mount: async (devicePath, directory) => void mounted.set(directory, devicePath),
    remount: async () => undefined,
    unmount: async (directory) => void mounted.delete(directory),
    mountsBelow: async (below) =>
      [...mounted]
        .filter(([directory]) => directory.startsWith(below))
        .map(([directory, source]) => ({ directory, source })),
  };
}

interface Setting {
  readonly server: TestServer;
  readonly host: ReturnType<typeof paperHost>;
  readonly at: (...names: string[]) => string;
}

async function start(t: TestContext, tools: Partial<LayerTools> = {}, config: object = {}): Promise<Setting> {
  const host = paperHost();
  const server = await startServer(t, config, { host, tools: { ...layerTools, ...tools } });
  return { server, host, at: (...names) => join(server.root, 'snapshots', ...names) };
}

/** What a writable snapshot is on disk. */
async function stateOf(at: Setting['at'], id = '1'): Promise<unknown> {
  const names = (await readdir(at(id, 'block'))).sort();
  const files = ['config.v1.json', 'writable_data', 'writable_index'];
  const contents = await Promise.all(files.map((name) => readFile(at(id, 'block', name), 'latin1')));
  return { names, contents, fs: await readdir(at(id, 'fs')) };
}

test('a commit that fails takes back what it did; the next one succeeds', async (t) => {
  let fail = true;
  const { server, host, at } = await start(t, {
    seal: async (pair) => {
      await layerTools.seal(pair);
      if (fail) throw new Error('the disk is full');
    },
  });
  const mounts = await server.client.prepare('c', '', DIR);
  const before = await stateOf(at);
  await assert.rejects(server.client.commit('layer', 'c'), /the disk is full/);
  assert.deepEqual(await stateOf(at), {
    ...(before as object),
    names: ['config.v1.json', 'init-debug.log', 'mountpoint', 'writable_data', 'writable_index'],
  });
  assert.deepEqual(await server.client.mounts('c'), mounts);
  assert.deepEqual(await stateOf(at), before);
  fail = false;
  await server.client.commit('layer', 'c');
  assert.deepEqual([host.attached.size, host.mounted.size], [0, 0]);
  assert.deepEqual(await readdir(at('1', 'fs')), ['overlaybd.sealed']);
  const sealed = await openSealedLayer(await FileBlob.open(at('1', 'fs', 'overlaybd.sealed')));
  assert.equal(sealed.info.virtualSize, 2 ** 30);
  await sealed.close();
  assert.deepEqual(JSON.parse(await readFile(at('1', 'block', 'config.v1.json'), 'utf8')), {
    lowers: [{ dir: at('1', 'fs') }],
    resultFile: at('1', 'block', 'init-debug.log'),
  });
});

for (const steps of [1, 2, 3])
  test(`a snapshotter that dies after step ${steps} of a commit leaves a snapshot that can be used`, async (t) => {
    const { server, at } = await start(t);
    await server.client.prepare('c', '', DIR);
    const before = await stateOf(at);
    const pair = { data: at('1', 'block', 'writable_data'), index: at('1', 'block', 'writable_index') };
    await link(pair.data, at('1', 'fs', 'overlaybd.sealed'));
    if (steps >= 2) await layerTools.seal(pair);
    if (steps >= 3)
      await writeFile(
        at('1', 'block', 'config.v1.json'),
        JSON.stringify({ lowers: [{ dir: at('1', 'fs') }], resultFile: at('1', 'block', 'init-debug.log') }),
      );
    await server.restart();
    await server.client.mounts('c');
    assert.deepEqual(await stateOf(at), before);
    await server.client.commit('layer', 'c');
    assert.equal((await server.client.stat('layer')).kind, 3);
  });

test('a device that is in use is not committed, and stays', async (t) => {
  const { server, host } = await start(t);
  await server.client.prepare('c', '', DIR);
  const detach = host.detach.bind(host);
  host.detach = () => Promise.reject(new Error('it is mounted elsewhere'));
  await assert.rejects(server.client.commit('layer', 'c'), (error: { code: number; details: string }) => {
    assert.equal(error.code, Code.PRECONDITION);
    assert.match(error.details, /in use: it is mounted elsewhere/);
    return true;
  });
  assert.equal(host.mounted.size, 1);
  host.detach = detach;
  await server.client.commit('layer', 'c');
});

test('a container whose device does not come leaves nothing', async (t) => {
  const { server, host, at } = await start(t);
  host.mount = () => Promise.reject(new Error('wrong file system'));
  await assert.rejects(server.client.prepare('c', '', DIR), /wrong file system/);
  assert.deepEqual([host.attached.size, await readdir(at()), await server.client.list()], [0, [], []]);
});

test('overlay.active.path holds the files of a writable layer', async (t) => {
  const { server, at } = await start(t);
  const path = join(tempDir(t), 'active');
  const labels = { ...DIR, 'containerd.io/snapshot/overlay.active.path': path };
  await server.client.prepare('c', '', labels);
  assert.deepEqual((await readdir(path)).sort(), ['writable_data', 'writable_index']);
  // The files of another container are never taken.
  await assert.rejects(server.client.prepare('d', '', labels), /EEXIST/);
  assert.deepEqual((await readdir(path)).sort(), ['writable_data', 'writable_index']);
  await server.client.commit('layer', 'c');
  assert.equal(existsSync(path), false);
  assert.deepEqual(await readdir(at('1', 'fs')), ['overlaybd.sealed']);
  await server.client.prepare('e', 'layer', labels);
  await server.client.remove('e');
  assert.equal(existsSync(path), false);
  await assert.rejects(
    server.client.prepare('f', '', { ...labels, 'containerd.io/snapshot/overlay.active.path': 'here' }),
    { code: Code.INVALID },
  );
});

test('what a client unpacks is an ordinary layer, whatever the mode', async (t) => {
  const { server } = await start(t, {}, { rwMode: 'dir' });
  const [mount] = await server.client.prepare(`k8s.io/1/extract-1-x sha256:${'a'.repeat(64)}`);
  assert.match(mount?.source ?? '', /fs$/);
  const labels = { 'containerd.io/snapshot/type': 'image' };
  assert.match((await server.client.prepare('b', '', labels))[0]?.source ?? '', /fs$/);
  assert.match((await server.client.prepare('c'))[0]?.source ?? '', /mountpoint$/);
});

test('Docker’s init layer is a directory; its container has it between image and overlay', async (t) => {
  const { server, at } = await start(t, {}, { runtimeType: 'docker' });
  await server.client.prepare('base-key', '', DIR);
  await server.client.commit('image', 'base-key');
  const [init] = await server.client.prepare('moby/2/0123-init', 'image');
  assert.deepEqual([init?.type, init?.source, init?.options], ['bind', at('2', 'fs'), ['rw', 'rbind']]);
  await server.client.commit('0123-init', 'moby/2/0123-init');
  const [mount] = await server.client.prepare('0123', '0123-init');
  assert.equal(mount?.options.at(-1), `lowerdir=${at('2', 'fs')}:${at('1', 'block', 'mountpoint')}`);
});
