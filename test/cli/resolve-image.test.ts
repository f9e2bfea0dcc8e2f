import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { resolveImage } from '../../src/cli/resolve-image.js';
import { defaultServiceConfig, ImageOpener, parseImageConfig } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { scriptedServer } from '../support/scripted-server.js';
import { tempDir } from '../support/unpack.js';

const opener = () => new ImageOpener(defaultServiceConfig(silentLogger), silentLogger);

test('resolveImage() reads the layers of an OCI layout where they lie', { skip: noFixtures }, async (t) => {
  const dir = tempDir(t);
  const layout = fixture('debian', 'oci-obd');
  const path = await resolveImage(`oci:${layout}:debian-slim_overlaybd`, dir, opener(), { plainHttp: false });
  assert.equal(path, join(dir, 'config.v1.json'));
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const config = parseImageConfig(readFileSync(path, 'utf8'), path, silentLogger);
  assert.equal(config.lowers.length, 3);
  for (const { file } of config.lowers) assert.ok(file.startsWith(join(layout, 'blobs', 'sha256')));
  assert.equal(config.resultFile, join(dir, 'result'));
});

test(
  'resolveImage() refuses an image that was not converted, and says how to',
  { skip: noFixtures },
  async (t) => {
    const image = `oci:${fixture('debian', 'oci-src')}:debian-slim`;
    await assert.rejects(resolveImage(image, tempDir(t), opener(), { plainHttp: false }), {
      code: 'OBD_FORMAT_UNSUPPORTED',
      hint: /^Convert it first: obdconv /,
    });
  },
);

/** A registry with one manifest. */
function registryOf(layers: readonly { digest: string; annotations: Record<string, string> }[]) {
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: `sha256:${'c'.repeat(64)}`,
      size: 2,
    },
    layers: layers.map((layer) => ({
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
      size: 1000,
      ...layer,
    })),
  });
  return scriptedServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' });
    response.end(manifest);
  });
}

const digest = (c: string): string => `sha256:${c.repeat(64)}`;
const overlaybd = { 'containerd.io/snapshot/overlaybd/version': '0.1.0' };

test('resolveImage() names the layers of a registry by digest, each with a directory', async (t) => {
  await using server = await registryOf([
    { digest: digest('a'), annotations: overlaybd },
    {
      digest: digest('b'),
      annotations: { ...overlaybd, 'containerd.io/snapshot/overlaybd/acceleration-layer': 'yes' },
    },
  ]);
  const dir = tempDir(t);
  const host = new URL(server.url).host;
  const image = `docker://${host}/some/app:1`;
  const o = opener();
  await assert.rejects(resolveImage(image, dir, o, { plainHttp: false }), {
    code: 'OBD_REGISTRY_TLS',
  });
  const path = await resolveImage(image, dir, o, { plainHttp: true });
  const config = parseImageConfig(readFileSync(path, 'utf8'), path, silentLogger);
  assert.equal(config.repoBlobUrl, `http://${host}/v2/some/app/blobs`);
  assert.deepEqual(
    config.lowers.map((lower) => [lower.digest, lower.size, lower.dir]),
    [
      [digest('a'), 1000, join(dir, 'layers', '0')],
      [digest('b'), 1000, join(dir, 'layers', '1')],
    ],
  );
  assert.equal(config.accelerationLayer, true);
  await o.close();
});

test('resolveImage() refuses TurboOCI layers, whose files only a snapshotter unpacks', async (t) => {
  await using server = await registryOf([
    {
      digest: digest('a'),
      annotations: { 'containerd.io/snapshot/overlaybd/turbo-oci/target-digest': digest('d') },
    },
  ]);
  const o = opener();
  await assert.rejects(
    resolveImage(`docker://${new URL(server.url).host}/app`, tempDir(t), o, { plainHttp: true }),
    { code: 'OBD_FORMAT_UNSUPPORTED', message: /TurboOCI/ },
  );
  await o.close();
});
