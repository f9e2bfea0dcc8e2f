import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import {
  chainIds,
  convertImage,
  layerUuid,
  type ConvertedImage,
  type ConvertOptions,
} from '../../src/convert/index.js';
import {
  openImageSource,
  openImageTarget,
  parseImageConfig,
  type ImageSource,
  type Manifest,
} from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';
import { blobPath, exportDisk, openLayer } from './disk.js';
import { memberBytes, tarOf, writeLayout, type LayoutOptions } from './make-image.js';

const MIB = 2 ** 20;
const PLATFORM = { os: 'linux', architecture: 'amd64' };
const anonymous = new RegistryClient({});

function convert(
  source: string,
  target: string,
  workDir: string,
  options: Partial<ConvertOptions> & { client?: RegistryClient } = {},
): Promise<ConvertedImage> {
  const { client = anonymous, ...rest } = options;
  return convertImage(openImageSource(source, client), openImageTarget(target, client), {
    workDir,
    virtualSize: 256 * MIB,
    platform: PLATFORM,
    ...rest,
  });
}

async function manifestOf(image: ImageSource): Promise<Manifest> {
  const document = await image.resolve();
  assert.equal(document.kind, 'manifest');
  return document.manifest;
}

function assertFsck(path: string): void {
  const fsck = spawnSync('e2fsck', ['-fn', path], { encoding: 'utf8' });
  assert.equal(fsck.status, 0, fsck.stdout + fsck.stderr);
}

test(
  'convertImage() writes the Debian image with the types, names and identities of the reference',
  {
    skip: noFixtures,
  },
  async (t) => {
    const dir = tempDir(t);
    const source = `oci:${fixture('debian', 'oci-src')}:debian-slim`;
    const first = await convert(source, `oci:${dir}/out:first`, dir, { virtualSize: 64 * 2 ** 30 });
    const manifest = await manifestOf(openImageSource(`oci:${dir}/out:first`, anonymous));
    const golden = `oci:${fixture('debian', 'oci-obd')}:debian-slim_overlaybd`;
    const goldenManifest = await manifestOf(openImageSource(golden, anonymous));

    assert.equal(manifest.mediaType, goldenManifest.mediaType);
    assert.equal(manifest.config.mediaType, goldenManifest.config.mediaType);
    for (const layer of manifest.layers) {
      assert.equal(layer.mediaType, goldenManifest.layers[1]?.mediaType);
      assert.deepEqual(layer.annotations, {
        'containerd.io/snapshot/overlaybd/blob-digest': layer.digest,
        'containerd.io/snapshot/overlaybd/blob-size': String(layer.size),
        'containerd.io/snapshot/overlaybd/version': '0.1.0',
      });
    }
    const configOf = async (name: string, { config }: Manifest) =>
      parseImageConfig(await openImageSource(name, anonymous).readBlob(config), name);
    const config = await configOf(`oci:${dir}/out:first`, manifest);
    const goldenConfig = await configOf(golden, goldenManifest);
    assert.deepEqual(
      { ...config, rootfs: undefined },
      { ...goldenConfig, rootfs: undefined },
      'everything but the layers is as the reference has it',
    );
    assert.deepEqual(
      config.rootfs.diff_ids,
      manifest.layers.map(({ digest }) => digest),
    );
    // The reference's layer 0 is a base layer that we do not need.
    for (const [i, { digest }] of manifest.layers.entries()) {
      const [ours, theirs] = await Promise.all([
        openLayer(blobPath(join(dir, 'out'), digest)),
        openLayer(blobPath(fixture('debian', 'oci-obd'), goldenManifest.layers[i + 1]?.digest ?? '')),
      ]);
      assert.equal(ours.info.uuid, theirs.info.uuid);
      assert.equal(ours.info.parentUuid ?? null, i === 0 ? null : theirs.info.parentUuid);
      assert.equal(ours.info.virtualSize, 64 * 2 ** 30);
      await Promise.all([ours.close(), theirs.close()]);
    }
    for (const layers of [1, 2]) {
      await exportDisk(join(dir, 'out'), manifest, join(dir, 'disk'), layers);
      assertFsck(join(dir, 'disk'));
    }

    const again = await convert(source, `oci:${dir}/out:second`, tempDir(t), { virtualSize: 64 * 2 ** 30 });
    assert.equal(again.descriptor.digest, first.descriptor.digest);
    assert.deepEqual(
      again.layers.map(({ outcome }) => outcome),
      ['exists', 'exists'],
    );
  },
);

const SIMPLE = tarOf([{ path: 'dir/' }, { path: 'dir/file', content: 'hello' }]);
const MORE = tarOf([{ path: 'dir/.wh.file' }, { path: 'other', content: 'x'.repeat(10_000) }]);

test('convertImage() keeps Docker types of a Docker image unless told otherwise', async (t) => {
  const dir = tempDir(t);
  const source = writeLayout(join(dir, 'src'), [SIMPLE, MORE], { docker: true });
  await convert(source, `oci:${dir}/out:docker`, dir);
  const docker = await manifestOf(openImageSource(`oci:${dir}/out:docker`, anonymous));
  assert.deepEqual(
    [docker.mediaType, docker.config.mediaType, docker.layers[1]?.mediaType],
    [
      'application/vnd.docker.distribution.manifest.v2+json',
      'application/vnd.docker.container.image.v1+json',
      'application/vnd.docker.image.rootfs.diff.tar',
    ],
  );
  await convert(source, `oci:${dir}/out:oci`, dir, { mediaTypes: 'oci' });
  const oci = await manifestOf(openImageSource(`oci:${dir}/out:oci`, anonymous));
  assert.equal(oci.mediaType, 'application/vnd.oci.image.manifest.v1+json');
  assert.equal(oci.layers[0]?.mediaType, 'application/vnd.oci.image.layer.v1.tar');
  assert.equal(oci.layers[0].digest, docker.layers[0]?.digest);
});

test('convertImage() goes through a registry, and pushes nothing twice', async (t) => {
  const dir = tempDir(t);
  const requests: string[] = [];
  await using server = await startRegistryServer({
    directory: join(dir, 'registry'),
    onRequest: ({ method, path }) => {
      requests.push(`${method} ${path.replace(/[0-9a-f-]{16,}/g, '*')}`);
    },
  });
  const client = new RegistryClient({ plainHttpHosts: [server.host] });
  t.after(() => client.close());
  const source = writeLayout(join(dir, 'src'), [SIMPLE, MORE]);
  const name = `docker://${server.host}/a/b:obd`;
  const first = await convert(source, name, dir, { client });
  assert.deepEqual(
    first.layers.map(({ outcome }) => outcome),
    ['pushed', 'pushed'],
  );
  assert.match(requests.at(-1) ?? '', /^PUT .*\/manifests\/obd$/);
  requests.length = 0;
  const second = await convert(source, name, dir, { client });
  assert.equal(second.descriptor.digest, first.descriptor.digest);
  assert.deepEqual(
    requests.filter((request) => request.includes('uploads')),
    [],
  );
  // And from one: the converted image is refused, the source is not there.
  await assert.rejects(convert(name, `docker://${server.host}/a/b:twice`, dir, { client }), {
    code: 'OBD_CONVERT_BAD_IMAGE',
    message: /overlaybd layer already/,
  });
});

test('convertImage() whose push fails says so and leaves the tag alone', async (t) => {
  const dir = tempDir(t);
  let uploads = 0;
  mkdirSync(join(dir, 'registry'));
  await using server = await startRegistryServer({
    directory: join(dir, 'registry'),
    readOnly: true,
    onRequest: ({ method }) => {
      if (method !== 'GET' && method !== 'HEAD') uploads++;
    },
  });
  const client = new RegistryClient({ plainHttpHosts: [server.host], retry: { attempts: 1 } });
  t.after(() => client.close());
  const source = writeLayout(join(dir, 'src'), [SIMPLE, MORE, MORE, MORE]);
  await assert.rejects(convert(source, `docker://${server.host}/a/b:obd`, dir, { client }), /a\/b/);
  assert.ok(uploads > 0);
});

for (const [what, tars, options, message] of [
  [
    'whose content is not that of its configuration',
    [SIMPLE],
    { diffIds: [`sha256:${'0'.repeat(64)}`] },
    /not what the image's configuration says/,
  ],
  [
    'with more layers than its configuration names',
    [SIMPLE, MORE],
    { diffIds: [`sha256:${'0'.repeat(64)}`] },
    /names 1 layers, its manifest 2/,
  ],
  ['for another operating system', [SIMPLE], { config: { os: 'windows' } }, /for windows/],
  ['without layers', [], {}, /no layers/],
  ['that is an artifact', [SIMPLE], { layerType: 'application/wasm' }, /application\/wasm/],
  [
    'that is converted already',
    [SIMPLE],
    { layerAnnotations: { 'containerd.io/snapshot/overlaybd/version': '0.1.0' } },
    /overlaybd layer already/,
  ],
] satisfies [string, Buffer[], LayoutOptions, RegExp][])
  test(`convertImage() refuses an image ${what}`, async (t) => {
    const dir = tempDir(t);
    const source = writeLayout(join(dir, 'src'), tars, options);
    await assert.rejects(convert(source, `oci:${dir}/out:x`, dir), {
      code: 'OBD_CONVERT_BAD_IMAGE',
      message,
    });
    assert.ok(
      !readdirSync(dir).includes('out') ||
        !readFileSync(join(dir, 'out', 'index.json'), 'utf8').includes('"x"'),
    );
  });

test('convertImage() says when the virtual disk is too small', async (t) => {
  const dir = tempDir(t);
  const source = writeLayout(join(dir, 'src'), [tarOf([{ path: 'big', content: randomBytes(20 * MIB) }])]);
  await assert.rejects(convert(source, `oci:${dir}/out:x`, dir, { virtualSize: 16 * MIB }), {
    code: 'OBD_CONVERT_NO_SPACE',
    hint: /--vsize/,
  });
});

test('convertImage() stops when it is told to, and leaves no work files', async (t) => {
  const dir = tempDir(t);
  const work = tempDir(t);
  const big = tarOf([{ path: 'big', content: randomBytes(8 * MIB) }]);
  const source = writeLayout(join(dir, 'src'), [SIMPLE, big, big]);
  const controller = new AbortController();
  let seen = 0;
  await assert.rejects(
    convert(source, `oci:${dir}/out:x`, work, {
      signal: controller.signal,
      onProgress: (done, total) => {
        seen = done / total;
        if (seen > 0.5) controller.abort();
      },
    }),
    { code: 'OBD_ABORTED' },
  );
  assert.ok(seen > 0.5);
  assert.deepEqual(readdirSync(work), []);
});

test('A layer holds what changed and nothing else', async (t) => {
  const dir = tempDir(t);
  const noise = randomBytes(3 * MIB);
  const source = writeLayout(join(dir, 'src'), [
    tarOf([{ path: 'noise', content: noise }]),
    tarOf([
      { path: 'noise', content: noise, mode: 0o600 },
      { path: 'zeros', content: new Uint8Array(4 * MIB) },
    ]),
    tarOf([{ path: '.wh.nothing' }]),
  ]);
  const { layers } = await convert(source, `oci:${dir}/out:x`, dir, { virtualSize: 8 * 2 ** 30 });
  assert.ok((layers[0]?.dataSize ?? 0) < 3 * MIB + 6 * MIB);
  // The same content again takes other blocks; zeros take none.
  assert.ok((layers[1]?.dataSize ?? 0) < 3 * MIB + 200 * 1024, `${layers[1]?.dataSize}`);
  assert.equal(layers[2]?.dataSize, 0);
});

test('chainIds() and layerUuid() follow the image specification and the reference', () => {
  const [a, b] = ['sha256:' + 'a'.repeat(64), 'sha256:' + 'b'.repeat(64)];
  const chain = chainIds([a, b]);
  assert.equal(chain[0], a);
  // printf 'sha256:aa... sha256:bb...' | sha256sum
  assert.equal(chain[1], 'sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c');
  assert.equal(
    layerUuid('sha256:0123456789abcdef0123456789abcdef' + '0'.repeat(32)),
    '01234567-89AB-CDEF-0123-456789ABCDEF',
  );
});

test('A member that is cut off at the end of a packed layer is noticed', async (t) => {
  const dir = tempDir(t);
  const source = writeLayout(join(dir, 'src'), [
    memberBytes({ path: 'f', content: 'x'.repeat(2000) }).subarray(0, 1024),
  ]);
  await assert.rejects(convert(source, `oci:${dir}/out:x`, dir), {
    code: 'OBD_CONVERT_BAD_TAR',
    message: /unexpected end/,
  });
});
