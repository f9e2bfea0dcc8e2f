/** `obd rpull` and `obd pull` with Debian's containerd, runc and docker-registry, and our snapshotter and service. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { MemoryBlob } from '../../src/blob/index.js';
import type { PulledImage } from '../../src/containerd/index.js';
import { digestOf, MediaType, openImageTarget, type Descriptor } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { tarOf } from '../convert/make-image.js';
import { collect, noLab, output, startLab } from '../support/containerd-lab.js';
import { dockerRegistry } from '../support/docker-registry.js';
import { checkout, fixture } from '../support/fixtures.js';
import { compareTree, readExpectedTree } from '../support/mounted-tree.js';
import { pushImage } from '../support/push-image.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);

const states = (image: PulledImage): string[] => image.layers.map(({ state }) => state);

const sizeOf = (layers: readonly { readonly size: number }[]): number =>
  layers.reduce((sum, { size }) => sum + size, 0);

/** Makes a TurboOCI image of the golden indexes, in the repository that has the layers they are of. */
async function pushTurbo(reference: string): Promise<{ readonly layers: readonly Descriptor[] }> {
  const client = new RegistryClient({ plainHttpHosts: [reference.split('/')[0] ?? ''] });
  const target = openImageTarget(`docker://${reference}`, client);
  const push = async (bytes: Buffer, mediaType: string): Promise<Descriptor> => {
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length };
    await target.pushBlob(descriptor, new MemoryBlob(bytes));
    return descriptor;
  };
  try {
    const layers: Descriptor[] = [];
    const diffIds: string[] = [];
    for (const n of [1, 2, 3]) {
      const of = (name: string): Buffer => readFileSync(fixture('small', name));
      const source = await push(of(`ref-input/layer${n}.tar.gz`), MediaType.OCI_LAYER_GZIP);
      const tar = tarOf([
        { path: 'ext4.fs.meta', content: of(`turbooci/layer${n}.ext4.fs.meta`) },
        { path: '.turbo.ociv1', content: '' },
        { path: 'gzip.meta', content: of(`turbooci/layer${n}.gzip.meta`) },
      ]);
      diffIds.push(digestOf(tar));
      layers.push({
        ...(await push(gzipSync(tar), MediaType.OCI_LAYER_GZIP)),
        annotations: {
          'containerd.io/snapshot/overlaybd/version': '0.1.0-turbo.ociv1',
          'containerd.io/snapshot/overlaybd/turbo-oci/target-digest': source.digest,
          'containerd.io/snapshot/overlaybd/turbo-oci/target-media-type': source.mediaType,
        },
      });
    }
    const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
    const rootfs = { type: 'layers', diff_ids: diffIds };
    const config = await push(json({ architecture: 'amd64', os: 'linux', rootfs }), MediaType.OCI_CONFIG);
    const manifest = json({ schemaVersion: 2, mediaType: MediaType.OCI_MANIFEST, config, layers });
    await target.tag(await target.pushManifest(manifest, MediaType.OCI_MANIFEST));
    return { layers };
  } finally {
    await client.close();
  }
}

test('obd rpull and obd pull', { skip: noLab, timeout: 300_000 }, async (t) => {
  const lab = await startLab(t);
  const { node, registry } = lab;
  const name = `${registry.host}/team/debian:obd`;
  const manifest = await pushImage(fixture('debian', 'oci-obd'), name);

  await t.test('rpull fetches no layer; a container reads a part; removal leaves nothing', async () => {
    const pulled = await lab.pull('rpull', '--label', 'team=web', name);
    assert.equal(pulled.name, name);
    assert.deepEqual(states(pulled), ['lazy', 'lazy', 'lazy']);
    assert.equal(pulled.fetched, 0);
    assert.deepEqual(await lab.blobs(), [pulled.manifest.digest, manifest.config.digest].sort());
    assert.deepEqual(await node.service.list(), []); // a pull attaches nothing
    assert.match(await node.ctr('image', 'ls'), new RegExp(`^${name} .* team=web`, 'm'));

    await collect(node); // the lease is gone: what stays is what the image refers to
    assert.match(await output(lab, name, 'first'), /^\d+\.\d+\n$/);
    const [device] = await node.service.list();
    assert.ok(device !== undefined && device.bytesFetched > 0);
    assert.ok(device.bytesFetched < sizeOf(manifest.layers) / 2);

    // Another name for the same layers keeps them.
    const other = `${registry.host}/team/debian:other`;
    await pushImage(fixture('debian', 'oci-obd'), other);
    assert.deepEqual(states(await lab.pull('rpull', other)), ['lazy', 'lazy', 'lazy']);
    await node.ctr('image', 'rm', '--sync', name);
    assert.match(await output(lab, other, 'second'), /^\d+\.\d+\n$/);
    // What is lazy stays so, also when the content is fetched.
    const whole = await lab.pull('pull', other);
    assert.deepEqual([states(whole), whole.fetched], [['lazy', 'lazy', 'lazy'], sizeOf(manifest.layers)]);
    await lab.removed(other);
  });

  await t.test('pull fetches everything; the image runs and is pushed without its registry', async (t) => {
    await using first = await dockerRegistry(tempDir(t));
    const copy = `${first.host}/team/debian:obd`;
    await pushImage(fixture('debian', 'oci-obd'), copy);
    // Two at once: each waits for what the other is doing.
    const [pulled, too] = await Promise.all([lab.pull('pull', copy), lab.pull('pull', copy)]);
    assert.equal(too.target.digest, pulled.target.digest);
    assert.equal(pulled.fetched + too.fetched, sizeOf(manifest.layers));
    const all = [pulled.manifest, manifest.config, ...manifest.layers].map(({ digest }) => digest).sort();
    assert.deepEqual(await lab.blobs(), all);
    await first[Symbol.asyncDispose]();
    await collect(node);
    assert.deepEqual(await lab.blobs(), all);
    assert.match(await output(lab, copy, 'c'), /^\d+\.\d+\n$/);
    await node.ctr('image', 'push', '--plain-http', `${registry.host}/copy/debian:obd`, copy);
    await lab.removed(copy);
  });

  await t.test('rpull --download-blobs fetches and unpacks', async () => {
    const pulled = await lab.pull('rpull', '--download-blobs', name);
    assert.deepEqual(states(pulled), ['unpacked', 'unpacked', 'unpacked']);
    assert.deepEqual(states(await lab.pull('rpull', name)), ['exists', 'exists', 'exists']);
    assert.match(await output(lab, name, 'c'), /^\d+\.\d+\n$/);
    await lab.removed(name);
  });

  await t.test('an ordinary image is fetched and unpacked by either', async () => {
    const plain = `${registry.host}/team/debian:plain`;
    await pushImage(fixture('debian', 'oci-src'), plain);
    for (const command of ['rpull', 'pull'] as const) {
      const pulled = await lab.pull(command, plain);
      assert.deepEqual(states(pulled), ['unpacked', 'unpacked']);
      assert.equal(pulled.fetched, sizeOf(pulled.layers));
      await collect(node);
      assert.match(await output(lab, plain, 'c'), /^\d+\.\d+\n$/);
      assert.deepEqual(await node.service.list(), []);
      await lab.removed(plain);
    }
  });

  await t.test(
    'of a TurboOCI image only the indexes are fetched; files are read from the layers',
    async () => {
      const turbo = `${registry.host}/team/small:turbo`;
      const image = await pushTurbo(turbo);
      const pulled = await lab.pull('rpull', turbo);
      assert.deepEqual(states(pulled), ['unpacked', 'unpacked', 'unpacked']);
      assert.equal(pulled.fetched, sizeOf(image.layers));
      const snapshots = (...args: string[]): Promise<string> =>
        node.ctr('snapshots', '--snapshotter', 'overlaybd', ...args);
      await snapshots('prepare', 'look', pulled.snapshot);
      // The device is mounted below the overlay of a container.
      const [, device = ''] = /lowerdir=([^:,\s]+)/.exec(await snapshots('mounts', '/mnt', 'look')) ?? [];
      // Just what the reference's converter got wrong when it wrote the indexes.
      const known = JSON.parse(readFileSync(fixture('small/refdiff.json'), 'utf8')) as {
        readonly afterLayer3: readonly { readonly path: string; readonly field: string }[];
      };
      const named = (list: readonly { readonly path: string; readonly field: string }[]): string[] =>
        list.map(({ path, field }) => `${field} of ${path}`).sort();
      assert.deepEqual(
        named(compareTree(device, readExpectedTree(fixture('small/expected.json'), 3))),
        named(known.afterLayer3),
      );
      await snapshots('rm', 'look');
      await lab.removed(turbo);
    },
  );

  await t.test('a pull that is stopped leaves nothing', async (t) => {
    const slow = await startRegistryServer({ directory: tempDir(t), bytesPerSecond: 500_000 });
    t.after(() => slow[Symbol.asyncDispose]());
    const slowName = `${slow.host}/team/debian:plain`;
    await pushImage(fixture('debian', 'oci-src'), slowName);
    const args = ['rpull', '-a', node.address, '--plain-http', slowName];
    const child = spawn(join(checkout, 'bin', 'obd'), args, { stdio: 'ignore' });
    const ended = once(child, 'exit');
    for (let n = 0; !(await node.ctr('content', 'active')).includes('layer-'); n++) {
      assert.ok(n < 300 && child.exitCode === null, 'no layer is being fetched');
      await sleep(100);
    }
    child.kill('SIGINT');
    assert.deepEqual(await ended, [130, null]);
    await lab.nothing();
  });

  await t.test(
    'a pull that is stopped waits for the snapshot it has asked for, and leaves nothing',
    async () => {
      const plain = `${registry.host}/team/debian:plain`;
      await pushImage(fixture('debian', 'oci-src'), plain);
      const { snapshotter } = node;
      snapshotter.kill('SIGSTOP');
      const args = ['rpull', '-a', node.address, '--plain-http', plain];
      const child = spawn(join(checkout, 'bin', 'obd'), args, { stdio: 'ignore' });
      const ended = once(child, 'exit');
      try {
        // By then it waits for the snapshotter, which answers nobody.
        for (let n = 0; !(await node.ctr('content', 'ls', '-q')).includes('sha256:'); n++) {
          assert.ok(n < 300 && child.exitCode === null, 'no layer is being fetched');
          await sleep(100);
        }
        await sleep(1000);
        child.kill('SIGINT');
      } finally {
        snapshotter.kill('SIGCONT');
      }
      assert.deepEqual(await ended, [130, null]);
      await lab.nothing();
    },
  );

  await t.test('a pull that fails says why and leaves nothing', async () => {
    const fails = async (status: number, said: RegExp, ...args: string[]): Promise<void> => {
      await assert.rejects(lab.pull('rpull', ...args), (error: { code: number; stderr: string }) => {
        assert.match(error.stderr, said);
        assert.equal(error.code, status);
        return true;
      });
      await lab.nothing();
    };
    await fails(8, /none of that name[\s\S]*overlayfs/, '--snapshotter', 'nobody', name);
    await fails(8, /overlaybd format[\s\S]*--snapshotter/, '--snapshotter', 'native', name);
    await fails(4, /OBD_REGISTRY_NOT_FOUND/, `${registry.host}/team/debian:none`);
    await fails(2, /namespace "a\/b"/, '--namespace', 'a/b', name);
    // The registry has lost the second layer.
    const lost = manifest.layers[1]?.digest.slice('sha256:'.length) ?? '';
    const path = join(registry.storage, 'docker/registry/v2/blobs/sha256', lost.slice(0, 2), lost);
    await run('rm', ['-r', path]);
    await fails(4, new RegExp(lost), '--download-blobs', name);
  });
});
