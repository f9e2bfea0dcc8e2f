/** config.v1.json and manifests by somebody who means harm: names stay inside their directories, sizes within bounds. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FaultyRegistry } from '../support/faulty-registry.js';
import { NbdReader } from '../support/nbd-reader.js';
import { randomLayer } from '../support/random-image.js';
import { scriptedServer } from '../support/scripted-server.js';
import { ServiceNode } from '../support/service-node.js';

async function refused(node: ServiceNode, config: object | string, message: RegExp): Promise<void> {
  const path = node.at('evil.json');
  writeFileSync(path, typeof config === 'string' ? config : JSON.stringify(config));
  await assert.rejects(node.attach('evil', path), (error: Error & { code: string }) => {
    assert.match(`${error.code} ${error.message}`, message);
    return true;
  });
}

test('a hostile config.v1.json is refused, and the service goes on', async (t) => {
  const node = await ServiceNode.start(t);
  const repoBlobUrl = 'http://127.0.0.1:9/v2/a/blobs';
  const lower = (digest: string): object => ({ repoBlobUrl, lowers: [{ digest, size: 4096, dir: '' }] });
  for (const digest of [
    '../../../etc/cron.d/x',
    `sha256:${'/'.repeat(64)}`,
    `sha256:${'0'.repeat(63)}/`,
    `sha256:../${'0'.repeat(61)}`,
    `sha256:${'0'.repeat(64)}\u0000x`,
    `SHA256:${'0'.repeat(64)}`,
    'md5:00',
  ])
    await refused(node, lower(digest), /OBD_(CONFIG|REGISTRY)/);
  for (const url of ['file:///etc', 'unix:/run/x', 'ftp://h/v2/a/blobs', 'x'])
    await refused(node, { ...lower(`sha256:${'0'.repeat(64)}`), repoBlobUrl: url }, /OBD_CONFIG_VALUE/);
  await refused(node, { lowers: Array.from({ length: 257 }, () => ({ file: '/x' })) }, /lowers/);
  await refused(node, { lowers: [{ file: '/dev/zero' }] }, /OBD_/);
  await refused(node, { lowers: [{ file: '/etc/passwd' }] }, /OBD_FORMAT/);
  await refused(node, { lowers: [{ file: '/etc' }] }, /OBD_/);
  await refused(node, '['.repeat(100_000), /OBD_CONFIG_SYNTAX/);
  await refused(node, '{"__proto__": {"lowers": []}, "constructor": 3}', /OBD_CONFIG_VALUE/);
  await refused(node, `{"lowers": [{"size": 1e400, "digest": "sha256:${'0'.repeat(64)}"}]}`, /size/);
  assert.equal((await node.client.info()).pid, node.pid);
  assert.ok(!existsSync('/etc/cron.d/x'));
});

test('a manifest whose digests are paths makes no file, with a reference too', async (t) => {
  const node = await ServiceNode.start(t);
  const config = Buffer.from('{}');
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: {
        mediaType: 'application/vnd.oci.image.config.v1+json',
        digest: `sha256:${createHash('sha256').update(config).digest('hex')}`,
        size: config.length,
      },
      layers: [
        {
          mediaType: 'application/vnd.oci.image.layer.v1.tar',
          digest: `sha256:../../../../../../..${node.at('escaped')}`,
          size: 4096,
          annotations: {
            'containerd.io/snapshot/overlaybd/blob-digest': `../../..${node.at('escaped')}`,
            'containerd.io/snapshot/overlaybd/blob-size': '4096',
          },
        },
      ],
    }),
  );
  await using registry = await scriptedServer((_, response) => {
    response.writeHead(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' }).end(manifest);
  });
  await assert.rejects(
    node.client.attach({
      image: `docker://${registry.host}/a:x`,
      id: 'evil',
      transport: 'nbd',
      plainHttp: true,
    }),
    { code: /^OBD_/ },
  );
  assert.ok(!existsSync(node.at('escaped')));
});

/** A directory that nobody may touch. */
function victim(node: ServiceNode): { dir: string; unharmed: () => void } {
  const dir = node.at('victim');
  mkdirSync(dir);
  writeFileSync(join(dir, 'precious'), 'precious', { mode: 0o644 });
  return {
    dir,
    unharmed: () => {
      assert.equal(readFileSync(join(dir, 'precious'), 'utf8'), 'precious');
      assert.equal(statSync(join(dir, 'precious')).mode & 0o777, 0o644);
    },
  };
}

test('links that somebody laid into the state, run and cache directories are not followed', async (t) => {
  const node = await ServiceNode.start(t);
  const layer = await randomLayer(1, 77);
  const registry = await FaultyRegistry.start(layer.stored);
  t.after(() => registry.close());
  const { dir, unharmed } = victim(node);
  await node.kill();
  // A leftover device, which the start removes; a cached blob and its sidecar, which an attach opens; the lock.
  mkdirSync(node.at('state/devices'), { recursive: true });
  symlinkSync(dir, node.at('state/devices/left'));
  mkdirSync(node.cacheDir, { recursive: true });
  symlinkSync(join(dir, 'precious'), join(node.cacheDir, layer.digest));
  symlinkSync(join(dir, 'precious'), join(node.cacheDir, `${layer.digest}.units`));
  await node.run();
  assert.ok(!existsSync(node.at('state/devices/left')), 'the link goes, what it names stays');
  const path = node.image('x', {
    repoBlobUrl: `${registry.url}/v2/a/blobs`,
    lowers: [{ digest: layer.digest, size: layer.stored.length, dir: '' }],
  });
  const { devicePath = '' } = await node.attach('x', path);
  const reader = await NbdReader.connect(devicePath);
  const { data } = await reader.read(0, 1 << 20);
  reader.close();
  assert.ok(data?.equals(layer.plain), 'reads go on from the source');
  unharmed();
  await node.kill();
  unharmed();
});
