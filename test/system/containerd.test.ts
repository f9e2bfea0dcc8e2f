/** Debian's containerd and runc on our snapshotter and service: an ordinary image and one in overlaybd format. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { openImageSource, openImageTarget, resolveManifest, type Descriptor } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { emptied, noContainerd, startNode } from '../support/containerd-node.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { Code, TestClient } from '../support/snapshots-client.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const skip = noContainerd || noFixtures;

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

test(
  'what a container wrote is committed as a snapshot, and containers run from it, in every mode',
  { skip, timeout: 300_000 },
  async (t) => {
    const { dir, service, ctr } = await startNode(t);
    const archive = join(dir, 'image.tar');
    await run('tar', ['-C', fixture('debian', 'oci-obd'), '-cf', archive, '.']);
    await ctr('image', 'import', '--snapshotter', 'overlaybd', archive);
    const image = (await ctr('image', 'ls', '-q')).trim();
    const snapshots = (...args: string[]): Promise<string> =>
      ctr('snapshots', '--snapshotter', 'overlaybd', ...args);
    for (const mode of ['overlayfs', 'dir', 'dev']) {
      const label = `containerd.io/snapshot/overlaybd.writable=${mode}`;
      await ctr(
        ...['run', '--snapshotter', 'overlaybd', '--snapshotter-label', label, image, `writer-${mode}`],
        ...['/bin/sh', '-c', `echo ${mode} > /written; rm /etc/debian_version`],
      );
      await snapshots('commit', `committed-${mode}`, `writer-${mode}`);
      await ctr('container', 'rm', `writer-${mode}`);
      // Two at once from one layer, by hand: ctr runs images, or directories.
      const outputs = await Promise.all(
        ['a', 'b'].map(async (name) => {
          const id = `${name}-${mode}`;
          const target = join(dir, id);
          await mkdir(target);
          await snapshots('prepare', id, `committed-${mode}`);
          await run('sh', ['-c', (await snapshots('mounts', target, id)).trim()]);
          try {
            return await ctr(
              ...['run', '--rm', '--rootfs', target, id],
              ...['/bin/sh', '-c', 'cat /written; ls /etc/debian_version 2>/dev/null || echo gone'],
            );
          } finally {
            await run('umount', [target]);
          }
        }),
      );
      assert.deepEqual(outputs, [`${mode}\ngone\n`, `${mode}\ngone\n`]);
      for (const key of [`a-${mode}`, `b-${mode}`, `committed-${mode}`]) await snapshots('rm', key);
    }
    await ctr('image', 'rm', '--sync', image);
    await emptied(join(dir, 'snapshots', 'snapshots'));
    assert.deepEqual(await service.list(), []);
  },
);
