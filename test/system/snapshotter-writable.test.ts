/** Containers with a device of their own: written to, committed, run again (support/snapshotter-node.ts). */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import {
  OBD,
  SnapshotterNode,
  noDevices as skip,
  pull,
  registryWithDebian,
  rejects,
  release,
} from '../support/snapshotter-node.js';
import { Code } from '../support/snapshots-client.js';

const run = promisify(execFile);
const DIR = { [`${OBD}.writable`]: 'dir' };
const DEV = { [`${OBD}.writable`]: 'dev' };
const MiB = 1 << 20;

/** A node with a lazily pulled image; its top layer. */
async function nodeWithImage(
  t: TestContext,
  config: object = {},
): Promise<{ node: SnapshotterNode; top: string; s: string }> {
  const registry = await registryWithDebian(t);
  const node = await SnapshotterNode.start(t, registry.host, config);
  const top = await pull(node, registry.host, registry.layers);
  return { node, top, s: join(node.root, 'snapshots') };
}

for (const type of ['append', 'sparse'])
  describe(`writable devices, ${type}`, { skip, timeout: 300_000 }, () => {
    test('dir: what was written is committed as a layer of the image, and runs', async (t) => {
      const { node, top, s } = await nodeWithImage(t, { writableLayerType: type });
      const mounts = await node.client.prepare('c', top, DIR);
      assert.deepEqual(mounts, [
        { type: 'bind', source: `${s}/4/block/mountpoint`, target: '', options: ['rw', 'rbind'] },
      ]);
      assert.deepEqual(await node.client.mounts('c'), mounts);
      assert.deepEqual((await readdir(`${s}/4/block`)).sort(), [
        'backstore_mark',
        'config.v1.json',
        'init-debug.log',
        'mountpoint',
        'writable_data',
        'writable_index',
      ]);
      const target = await node.mount('c', mounts);
      assert.match(await release(target), /^\d+\.\d+/);
      // What an overlay cannot do: a directory of the image gets another name.
      await rename(join(target, 'etc'), join(target, 'etc-of-old'));
      await writeFile(join(target, 'written'), Buffer.alloc(3 * MiB, 7));
      const writer = await open(join(target, 'more'), 'w');
      await rejects(node.client.commit('layer', 'c'), Code.PRECONDITION, /in use/);
      await writer.writeFile('the container goes on');
      await writer.close();
      await run('sync', ['-f', target]);
      await node.unmount(target);
      assert.ok((await node.client.usage('c')).size > 3 * MiB);
      await node.client.commit('layer', 'c', { mine: 'x' });
      assert.deepEqual((await node.client.stat('layer')).labels, {
        mine: 'x',
        [`${OBD}.localcommitpath`]: `${s}/4/fs/overlaybd.sealed`,
      });
      assert.deepEqual(await readdir(`${s}/4/fs`), ['overlaybd.sealed']);
      assert.equal(existsSync(`${s}/4/block/writable_data`), false);
      assert.ok((await node.client.usage('layer')).size > 3 * MiB);

      // Through an overlay, and through a device again: the layers are stacked.
      const over = await node.mount('over', await node.client.prepare('over', 'layer'));
      const again = await node.mount('again', await node.client.prepare('again', 'layer', DIR));
      for (const seen of [over, again]) {
        assert.equal(existsSync(join(seen, 'etc')), false);
        assert.match(await readFile(join(seen, 'etc-of-old', 'debian_version'), 'utf8'), /^\d/);
        assert.deepEqual(await readFile(join(seen, 'written')), Buffer.alloc(3 * MiB, 7));
      }
      await rm(join(again, 'written'));
      await node.unmount(again);
      await node.client.commit('second', 'again');
      const third = await node.mount('third', await node.client.view('third', 'second'));
      assert.equal(existsSync(join(third, 'written')), false);
      assert.match(await readFile(join(third, 'etc-of-old', 'debian_version'), 'utf8'), /^\d/);
      await assert.rejects(writeFile(join(third, 'x'), ''), { code: 'EROFS' });
      await node.removeAll();
    });

    test('dev: the client gets the device; it is committed like a directory', async (t) => {
      const { node, top } = await nodeWithImage(t, { writableLayerType: type, rwMode: 'dev' });
      const mounts = await node.client.prepare('c', top);
      const [device] = await node.service.list();
      assert.deepEqual(mounts, [
        { type: 'ext4', source: device?.devicePath, target: '', options: ['rw', 'discard'] },
      ]);
      assert.equal(device?.readOnly, false);
      const target = await node.mount('c', mounts);
      await writeFile(join(target, 'written'), Buffer.alloc(MiB, 9));
      // Who still has it mounted, and writes nothing, keeps it to read.
      await node.client.commit('layer', 'c');
      await assert.rejects(writeFile(join(target, 'late'), ''), { code: 'EROFS' });
      assert.deepEqual((await readFile(join(target, 'written'))).length, MiB);
      assert.equal((await node.service.list()).length, 1);
      const [view] = await node.client.view('v', 'layer');
      assert.deepEqual([view?.type, view?.options], ['ext4', ['ro', 'discard']]);
      const seen = await node.mount('v', view === undefined ? [] : [view]);
      assert.deepEqual(await readFile(join(seen, 'written')), Buffer.alloc(MiB, 9));
      assert.match(await release(seen), /^\d/);
      // The label is stronger than the configuration.
      const [overlay] = await node.client.prepare('o', 'layer', { [`${OBD}.writable`]: 'overlayfs' });
      assert.equal(overlay?.type, 'overlay');
      await node.removeAll();
    });

    test('kill -9 of a FUSE service: what was synced is there at the next use, and can be committed', async (t) => {
      const { node, top } = await nodeWithImage(t, { writableLayerType: type });
      const target = await node.mount('c', await node.client.prepare('c', top, DIR));
      for (const n of [1, 2, 3]) {
        await writeFile(join(target, `file-${n}`), Buffer.alloc(MiB, n));
        await run('sync', [join(target, `file-${n}`)]);
      }
      await run('sync', ['-f', target]);
      await writeFile(join(target, 'never-synced'), Buffer.alloc(MiB, 4));
      await node.stop('overlaybd-tcmu', 'SIGKILL');
      await assert.rejects(run('sync', [join(target, 'never-synced')]));
      await node.startService();
      const mounts = await node.client.mounts('c');
      const again = await node.mount('again', mounts);
      for (const n of [1, 2, 3])
        assert.deepEqual(await readFile(join(again, `file-${n}`)), Buffer.alloc(MiB, n));
      assert.match(await release(again), /^\d+\.\d+/);
      await writeFile(join(again, 'after'), 'after');
      await node.unmount(again);
      await node.unmount(target);
      await node.client.commit('layer', 'c');
      const seen = await node.mount('v', await node.client.view('v', 'layer'));
      assert.equal(await readFile(join(seen, 'after'), 'utf8'), 'after');
      assert.deepEqual(await readFile(join(seen, 'file-3')), Buffer.alloc(MiB, 3));
      await node.removeAll();
    });

    test('SIGTERM of a FUSE service stores what was written, synced or not', async (t) => {
      const { node, top } = await nodeWithImage(t, { writableLayerType: type });
      const target = await node.mount('c', await node.client.prepare('c', top, DIR));
      await writeFile(join(target, 'not-synced'), Buffer.alloc(2 * MiB, 6));
      await node.stop('overlaybd-tcmu', 'SIGTERM');
      await node.startService();
      const again = await node.mount('again', await node.client.mounts('c'));
      assert.deepEqual(await readFile(join(again, 'not-synced')), Buffer.alloc(2 * MiB, 6));
      await node.removeAll();
    });

    test('a disk without an image has the size that a label says, and nothing in it', async (t) => {
      const node = await SnapshotterNode.start(t, 'unused.example', { writableLayerType: type });
      const labels = { ...DIR, [`${OBD}/vsize`]: '1' };
      const target = await node.mount('c', await node.client.prepare('c', '', labels));
      assert.deepEqual(await readdir(target), []);
      assert.equal((await stat(target)).mode & 0o7777, 0o755);
      assert.equal((await node.service.list())[0]?.size, 2 ** 30);
      await assert.rejects(run('fallocate', ['-l', '2G', join(target, 'large')]), /No space left/);
      await rm(join(target, 'large'), { force: true });
      await mkdir(join(target, 'd'));
      await node.unmount(target);
      await node.client.commit('base', 'c');
      const dev = await node.mount('dev', await node.client.prepare('dev', 'base', DEV));
      assert.deepEqual(await readdir(dev), ['d']);
      await rejects(
        node.client.prepare('x', '', { ...DIR, [`${OBD}/vsize`]: '0' }),
        Code.INVALID,
        /vsize" is "0"/,
      );
      await rejects(node.client.stat('x'), Code.NOT_FOUND);
      await node.removeAll();
    });
  });
