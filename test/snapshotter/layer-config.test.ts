import assert from 'node:assert/strict';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { blobUrl } from '../../src/snapshotter/blob-url.js';
import { startServer } from '../support/snapshots-client.js';

test('blobUrl() finds the repository of every kind of reference', () => {
  const cases = {
    'docker.io/library/debian:12': 'https://registry-1.docker.io/v2/library/debian/blobs',
    'docker.io/debian': 'https://registry-1.docker.io/v2/library/debian/blobs',
    'debian:12': 'https://registry-1.docker.io/v2/library/debian/blobs',
    'team/app': 'https://registry-1.docker.io/v2/team/app/blobs',
    'registry.example/a/b-c/d_e:1': 'https://registry.example/v2/a/b-c/d_e/blobs',
    'registry.example:5000/app': 'https://registry.example:5000/v2/app/blobs',
    'localhost/app:1': 'https://localhost/v2/app/blobs',
    [`registry.example/app:1@sha256:${'a'.repeat(64)}`]: 'https://registry.example/v2/app/blobs',
    'plain.example:5000/app:1': 'http://plain.example:5000/v2/app/blobs',
  };
  const mirrors = [
    { host: 'plain.example:5000', insecure: true },
    { host: 'registry.example', insecure: false },
  ];
  for (const [ref, url] of Object.entries(cases)) assert.equal(blobUrl(ref, mirrors), url);
  for (const wrong of [
    '',
    'registry.example/',
    'registry.example/../x',
    'registry.example/a/../x',
    'a b',
    'host.example/a?x=1',
  ])
    assert.throws(() => blobUrl(wrong), { code: 'OBD_SNAPSHOT_INVALID' });
});

test('TurboOCI layers get their configuration when they are committed', async (t) => {
  const { client, root } = await startServer(t);
  const s = join(root, 'snapshots');
  const digest = `sha256:${'1'.repeat(64)}`;
  const turbo = 'containerd.io/snapshot/overlaybd/turbo-oci';
  const labels = (target: string, mediaType: string): Record<string, string> => ({
    'containerd.io/snapshot.ref': target,
    'containerd.io/snapshot/image-ref': 'registry.example/app:1',
    [`${turbo}/target-digest`]: digest,
    [`${turbo}/target-media-type`]: mediaType,
  });
  await client.prepare('key-1', '', labels('a', 'application/vnd.oci.image.layer.v1.tar+gzip'));
  await assert.rejects(client.commit('a', 'key-1'), /none of erofs.fs.meta, ext4.fs.meta/);
  for (const name of ['ext4.fs.meta', 'gzip.meta']) await writeFile(join(s, '1', 'fs', name), '');
  await client.commit('a', 'key-1');
  await client.prepare('key-2', 'a', labels('b', 'application/vnd.oci.image.layer.v1.tar'));
  // The lowest layer has said what kind of file system the image has.
  for (const name of ['erofs.fs.meta', 'ext4.fs.meta']) await writeFile(join(s, '2', 'fs', name), '');
  await client.commit('b', 'key-2');
  assert.deepEqual(JSON.parse(await readFile(join(s, '2', 'block', 'config.v1.json'), 'utf8')), {
    repoBlobUrl: 'https://registry.example/v2/app/blobs',
    lowers: [
      {
        file: `${s}/1/fs/ext4.fs.meta`,
        dir: `${s}/1/fs`,
        targetDigest: digest,
        gzipIndex: `${s}/1/fs/gzip.meta`,
      },
      { file: `${s}/2/fs/ext4.fs.meta`, dir: `${s}/2/fs`, targetDigest: digest },
    ],
    resultFile: `${s}/2/block/init-debug.log`,
  });
});

test('an image that is downloaded or traced is unpacked into its own directory', async (t) => {
  const { client, root } = await startServer(t);
  const fs = (id: number): unknown => [
    { type: 'bind', source: join(root, 'snapshots', String(id), 'fs'), target: '', options: ['rw', 'bind'] },
  ];
  const labels = {
    'containerd.io/snapshot.ref': 'a',
    'containerd.io/snapshot/image-ref': 'registry.example/app:1',
    'containerd.io/snapshot/overlaybd/blob-digest': `sha256:${'2'.repeat(64)}`,
    'containerd.io/snapshot/overlaybd/blob-size': '4096',
  };
  const download = { ...labels, 'containerd.io/snapshot/overlaybd/download-remote-blob': 'download' };
  assert.deepEqual(await client.prepare('key-1', '', download), fs(1));
  assert.deepEqual(await client.mounts('key-1'), fs(1));
  await client.commit('a', 'key-1');
  const trace = {
    'containerd.io/snapshot.ref': 'b',
    'containerd.io/snapshot/overlaybd/acceleration-layer': 'yes',
  };
  assert.deepEqual(await client.prepare('key-2', 'a', trace), fs(2));
  // Without a service no container starts, and nothing stays of the attempt.
  await assert.rejects(client.prepare('container', 'a'), /without devices/);
  assert.deepEqual((await readdir(join(root, 'snapshots'))).sort(), ['1', '2']);
});

test('a container whose reads are to be recorded says so in the configuration of its image', async (t) => {
  const { client, root } = await startServer(t);
  const obd = 'containerd.io/snapshot/overlaybd';
  const remote = {
    'containerd.io/snapshot.ref': 'a',
    'containerd.io/snapshot/image-ref': 'registry.example/app:1',
    [`${obd}/blob-digest`]: `sha256:${'2'.repeat(64)}`,
    [`${obd}/blob-size`]: '4096',
  };
  await assert.rejects(client.prepare('x', '', remote), /target snapshot "a"/);
  const config = async (id: number): Promise<Record<string, unknown>> =>
    JSON.parse(
      await readFile(join(root, 'snapshots', String(id), 'block', 'config.v1.json'), 'utf8'),
    ) as Record<string, unknown>;
  const record = { [`${obd}/record-trace`]: 'yes', [`${obd}/record-trace-path`]: '/var/tmp/trace' };
  const plain = await config(1);
  // Without a service no container starts; what its device would be opened with is there.
  await assert.rejects(client.prepare('c1', 'a', record), /without devices/);
  assert.deepEqual(await config(1), { ...plain, recordTracePath: '/var/tmp/trace' });
  await assert.rejects(
    client.prepare('c2', 'a', { ...record, [`${obd}/record-trace-path`]: 'trace' }),
    /absolute path/,
  );
  await assert.rejects(client.prepare('c3', 'a', { [`${obd}/record-trace-path`]: '/x' }), /without devices/);
  assert.deepEqual(await config(1), plain, 'the next container is not recorded');
  // An image that has a trace is not recorded.
  const traced = { 'containerd.io/snapshot.ref': 'b', [`${obd}/acceleration-layer`]: 'yes' };
  await client.prepare('k', 'a', traced);
  await client.commit('b', 'k');
  const before = await client.stat('b');
  await assert.rejects(client.prepare('c4', 'b', record), /without devices/);
  assert.equal(before.name, 'b');
  const own = (await readdir(join(root, 'snapshots'))).map(Number).find((id) => id > 1) ?? 0;
  assert.equal((await config(own))['accelerationLayer'], true);
  assert.equal((await config(own))['recordTracePath'], undefined);
});

test('a container that asks for a writable device gets an overlay on an ordinary image', async (t) => {
  const { client } = await startServer(t);
  const writable = { 'containerd.io/snapshot/overlaybd.writable': 'dir' };
  await client.prepare('k');
  await client.commit('plain', 'k');
  await client.prepare('c', 'plain', { ...writable, other: '1' });
  assert.deepEqual((await client.stat('c')).labels, { other: '1' });
  const remote = {
    'containerd.io/snapshot.ref': 'a',
    'containerd.io/snapshot/image-ref': 'registry.example/app:1',
    'containerd.io/snapshot/overlaybd/blob-digest': `sha256:${'2'.repeat(64)}`,
    'containerd.io/snapshot/overlaybd/blob-size': '4096',
  };
  await assert.rejects(client.prepare('x', '', remote), /target snapshot "a"/);
  await assert.rejects(client.prepare('d', 'a', writable), /without tools for layers/);
  await assert.rejects(client.stat('d'), /does not exist/);
});
