/** Images in overlaybd format through the snapshotter, its service and a registry (support/snapshotter-node.ts). */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import type { Descriptor } from '../../src/oci/index.js';
import { fixture } from '../support/fixtures.js';
import {
  DEAD_HOST,
  OBD,
  REF,
  SnapshotterNode,
  labelsOf,
  noDevices as skip,
  pull,
  registryWithDebian,
  rejects,
  release,
  until,
} from '../support/snapshotter-node.js';
import { Code } from '../support/snapshots-client.js';

const run = promisify(execFile);

describe('overlaybd images through the snapshotter', { skip, timeout: 300_000 }, () => {
  test('a lazily pulled image runs; ten containers share one device; nothing is left', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await SnapshotterNode.start(t, registry.host);
    const top = await pull(node, registry.host, registry.layers);
    await rejects(
      node.client.prepare('again', '', labelsOf(registry.host, registry.layers[0] as Descriptor, 'chain-0')),
      Code.EXISTS,
    );
    const s = join(node.root, 'snapshots');
    const ids = await readdir(s);
    assert.equal(ids.length, 3); // the second attempt left no directory
    const config = JSON.parse(await readFile(join(s, '3', 'block', 'config.v1.json'), 'utf8')) as unknown;
    assert.deepEqual(config, {
      repoBlobUrl: `http://${registry.host}/v2/team/debian/blobs`,
      lowers: registry.layers.map(({ digest, size }, i) => ({ digest, size, dir: `${s}/${i + 1}/fs` })),
      resultFile: `${s}/3/block/init-debug.log`,
    });
    assert.deepEqual(await node.service.list(), []); // a pull attaches nothing

    const keys = Array.from({ length: 10 }, (_, i) => `container-${i}`);
    const mounts = await Promise.all(keys.map((key) => node.client.prepare(key, top)));
    const devices = await node.service.list();
    assert.equal(devices.length, 1);
    assert.deepEqual(mounts[0]?.[0]?.options.at(-1), `lowerdir=${s}/3/block/mountpoint`);
    assert.equal(mounts[0][0].type, 'overlay');
    assert.equal(await readFile(join(s, '3', 'block', 'init-debug.log'), 'utf8'), 'success');
    assert.equal(await readFile(join(s, '3', 'block', 'backstore_mark'), 'utf8'), devices[0]?.devicePath);
    const first = await node.mount('first', mounts[0]);
    assert.match(await release(first), /^\d+\.\d+/);
    const { stdout } = await run('chroot', [first, '/bin/sh', '-c', 'echo runs > /written; cat /written']);
    assert.equal(stdout, 'runs\n');
    const fetched = (await node.service.list())[0]?.bytesFetched ?? 0;
    const whole = registry.layers.reduce((sum, { size }) => sum + size, 0);
    assert.ok(fetched > 0 && fetched < whole / 2, `${fetched} of ${whole} bytes were fetched`);

    assert.deepEqual(await node.client.view('view', top), [
      { type: 'bind', source: `${s}/3/block/mountpoint`, target: '', options: ['ro', 'rbind'] },
    ]);
    // What a container wrote becomes an ordinary layer on the image, and runs.
    await node.unmount(first);
    await node.client.commit('written', 'container-0');
    const second = await node.mount('second', await node.client.prepare('on-written', 'written'));
    assert.equal(await readFile(join(second, 'written'), 'utf8'), 'runs\n');
    assert.match(await release(second), /^\d+\.\d+/);
    await node.removeAll();
  });

  test('an image that the client unpacks runs from its files', async (t) => {
    const node = await SnapshotterNode.start(t, 'unused.example');
    let parent = '';
    for (const i of [1, 2, 3]) {
      const [mount] = await node.client.prepare(`extract-${i}`, parent, { [REF]: `local-${i}` });
      const fs =
        mount?.type === 'bind' ? mount.source : (mount?.options.at(-2) ?? '').replace('upperdir=', '');
      await run('tar', ['-xf', fixture('small', 'native-lz4', `layer${i}.tar`), '-C', fs]);
      await node.client.commit(`local-${i}`, `extract-${i}`, { [REF]: `local-${i}` });
      const { labels } = await node.client.stat(`local-${i}`);
      assert.equal(labels[`${OBD}.localcommitpath`], join(fs, 'overlaybd.commit'));
      parent = `local-${i}`;
    }
    const target = await node.mount('c', await node.client.prepare('c', parent));
    assert.ok((await readdir(target)).includes('lost+found'));
    const { size } = await node.client.usage('local-1');
    assert.ok(size >= 2_880_497);
    await node.removeAll();
  });

  test('kill -9 of the snapshotter: containers go on, and the next one starts', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await SnapshotterNode.start(t, registry.host);
    const top = await pull(node, registry.host, registry.layers);
    const first = await node.mount('first', await node.client.prepare('first', top));
    await node.stop('overlaybd-snapshotter', 'SIGKILL');
    assert.match(await release(first), /^\d+\.\d+/);
    await node.startSnapshotter();
    const second = await node.mount('second', await node.client.prepare('second', top));
    assert.match(await release(second), /^\d+\.\d+/);
    assert.equal((await node.service.list()).length, 1);
    await node.removeAll();
  });

  test('kill -9 of a FUSE service: the next use attaches and mounts again', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await SnapshotterNode.start(t, registry.host);
    const top = await pull(node, registry.host, registry.layers);
    await node.client.prepare('first', top);
    await node.stop('overlaybd-tcmu', 'SIGKILL');
    await node.startService();
    const first = await node.mount('first', await node.client.mounts('first'));
    assert.match(await release(first), /^\d+\.\d+/);
    await node.removeAll();
  });

  test('autoRemoveDev detaches with the last container, and not before', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await SnapshotterNode.start(t, registry.host, { autoRemoveDev: true });
    const top = await pull(node, registry.host, registry.layers);
    await node.client.prepare('a', top);
    await node.client.prepare('b', top);
    await node.client.remove('a');
    assert.equal((await node.service.list()).length, 1);
    await node.client.remove('b');
    assert.deepEqual(await node.service.list(), []);
    const again = await node.mount('c', await node.client.prepare('c', top));
    assert.match(await release(again), /^\d+\.\d+/);
    await node.removeAll();
  });

  test('a dead registry fails the container with its reason, and only that container', async (t) => {
    const registry = await registryWithDebian(t);
    const node = await SnapshotterNode.start(t, registry.host, { attachTimeout: 3 });
    const top = await pull(node, DEAD_HOST, registry.layers);
    const began = performance.now();
    const failing = assert.rejects(node.client.prepare('c', top), (error: { details: string }) => {
      assert.match(error.details, /127\.0\.0\.1:9|not ready within 3 s/);
      return true;
    });
    await node.client.prepare('other');
    assert.ok(performance.now() - began < 2500);
    await failing;
    assert.ok(performance.now() - began < 20_000);
    await rejects(node.client.stat('c'), Code.NOT_FOUND);
    assert.equal(existsSync(join(node.root, 'snapshots', '4')), false);
    await until(async () => {
      await node.removeAll();
    });
  });

  test('labels that cannot be are refused, and leave nothing', async (t) => {
    const node = await SnapshotterNode.start(t, 'unused.example');
    const layer = { digest: `sha256:${'0'.repeat(64)}`, size: 4096 } as Descriptor;
    const good = labelsOf('unused.example', layer, 'chain');
    const wrong = (labels: object, details: RegExp, parent = ''): Promise<void> =>
      rejects(node.client.prepare('x', parent, { ...good, ...labels }), Code.INVALID, details);
    await wrong({ [`${OBD}/blob-digest`]: '../../etc/passwd' }, /blob-digest/);
    await wrong({ [`${OBD}/blob-size`]: '12x' }, /blob-size/);
    await wrong({ 'containerd.io/snapshot/image-ref': 'no reference at all' }, /image reference/);
    await node.client.prepare('plain-key');
    await node.client.commit('plain', 'plain-key');
    await wrong({}, /on top of an ordinary one/, 'plain');
    assert.equal((await readdir(join(node.root, 'snapshots'))).length, 1);
    await node.removeAll();
  });
});
