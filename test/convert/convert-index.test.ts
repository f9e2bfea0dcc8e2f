import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import { convertImage, type ConvertedImage, type ConvertOptions } from '../../src/convert/index.js';
import {
  openImageSource,
  openImageTarget,
  resolveManifest,
  type Descriptor,
  type Index,
} from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { tempDir } from '../support/unpack.js';
import { digest, tarOf, writeIndexLayout, writeLayout } from './make-image.js';

const MIB = 2 ** 20;
const anonymous = new RegistryClient({});
const ONE = tarOf([{ path: 'one', content: '1' }]);
const TWO = tarOf([{ path: 'two', content: '2' }]);

function convert(
  source: string,
  target: string,
  options: Partial<ConvertOptions> & { workDir: string; client?: RegistryClient },
): Promise<ConvertedImage> {
  const { client = anonymous, ...rest } = options;
  return convertImage(openImageSource(source, client), openImageTarget(target, client), {
    virtualSize: 64 * MIB,
    ...rest,
  });
}

async function indexOf(name: string, client = anonymous): Promise<Index> {
  const document = await openImageSource(name, client).resolve();
  assert.equal(document.kind, 'index');
  return document.index;
}

const platforms = (index: Index): string[] =>
  index.manifests.map(({ platform }) => `${platform?.os ?? ''}/${platform?.architecture ?? ''}`);

test('An index is converted image by image; attestations go along and are about the new images', async (t) => {
  const dir = tempDir(t);
  const source = writeIndexLayout(
    join(dir, 'src'),
    [
      { platform: 'linux/amd64', tars: [ONE], attested: true },
      { platform: 'windows/amd64', tars: [ONE], attested: true },
      { platform: 'linux/arm64', tars: [ONE, TWO], attested: true },
    ],
    [{ mediaType: 'application/x-other', digest: digest(ONE), size: 1 }],
  );
  const warnings: string[] = [];
  const result = await convert(source, `oci:${dir}/out:x`, {
    workDir: dir,
    platform: 'all',
    warn: (message) => warnings.push(message),
  });
  assert.deepEqual(
    result.images?.map(({ platform, layers }) => [platform, layers.length]),
    [
      ['linux/amd64', 1],
      ['linux/arm64', 2],
    ],
  );
  assert.equal(warnings.length, 2);
  assert.match(warnings.join('\n'), /windows\/amd64 is left out: it is for windows\n.*application\/x-other/);

  const out = openImageSource(`oci:${dir}/out:x`, anonymous);
  const index = await indexOf(`oci:${dir}/out:x`);
  assert.deepEqual(platforms(index), ['linux/amd64', 'linux/arm64', 'unknown/unknown', 'unknown/unknown']);
  assert.deepEqual(index.annotations, { made: 'for a test' });
  const before = await indexOf(source);
  for (const i of [0, 1]) {
    const attestation = index.manifests[i + 2] as Descriptor;
    const original = before.manifests.find(
      ({ annotations }) => annotations?.['vnd.docker.reference.digest'] === before.manifests[i * 2]?.digest,
    );
    assert.equal(attestation.digest, original?.digest, 'the statement itself is as it was');
    assert.deepEqual(attestation.annotations, {
      'vnd.docker.reference.digest': index.manifests[i]?.digest,
      'vnd.docker.reference.type': 'attestation-manifest',
    });
    const document = await out.document(attestation);
    assert.equal(document.kind, 'manifest');
    for (const blob of [document.manifest.config, ...document.manifest.layers]) await out.readBlob(blob);
  }
  // The image alone is the same as the one in the index.
  const alone = await convert(source, `oci:${dir}/out:one`, {
    workDir: dir,
    platform: { os: 'linux', architecture: 'arm64' },
  });
  assert.equal(alone.descriptor.digest, index.manifests[1]?.digest);
});

test('Some platforms of an index make an index of those', async (t) => {
  const dir = tempDir(t);
  const members = ['amd64', 'arm64', 's390x'].map((cpu) => ({ platform: `linux/${cpu}`, tars: [ONE] }));
  const source = writeIndexLayout(join(dir, 'src'), members);
  const wanted = ['s390x', 'amd64'].map((architecture) => ({ os: 'linux', architecture }));
  await convert(source, `oci:${dir}/out:x`, { workDir: dir, platform: wanted });
  assert.deepEqual(platforms(await indexOf(`oci:${dir}/out:x`)), ['linux/amd64', 'linux/s390x']);
  await assert.rejects(
    convert(source, `oci:${dir}/out:x`, {
      workDir: dir,
      platform: [...wanted, { os: 'linux', architecture: 'mips' }],
    }),
    { code: 'OBD_REGISTRY_NOT_FOUND', message: /linux\/mips/ },
  );
});

test('An index that cannot be converted, or not be stored, is refused before anything is done', async (t) => {
  const dir = tempDir(t);
  const windows = writeIndexLayout(join(dir, 'win'), [{ platform: 'windows/amd64', tars: [ONE] }]);
  await assert.rejects(convert(windows, `oci:${dir}/out:x`, { workDir: dir, platform: 'all' }), {
    code: 'OBD_CONVERT_BAD_IMAGE',
    message: /no image for linux/,
  });
  const source = writeIndexLayout(join(dir, 'src'), [{ platform: 'linux/amd64', tars: [ONE] }]);
  await assert.rejects(convert(source, `docker-archive:${dir}/out.tar`, { workDir: dir, platform: 'all' }), {
    code: 'OBD_CONVERT_BAD_IMAGE',
    hint: /oci-archive/,
  });
});

test('An index of more images than anyone makes is refused', async (t) => {
  const dir = tempDir(t);
  const [first] = (
    await indexOf(writeIndexLayout(join(dir, 'one'), [{ platform: 'linux/amd64', tars: [ONE] }]))
  ).manifests;
  const same = Array.from({ length: 300 }, (_, i) => ({
    ...first,
    platform: { os: 'linux', architecture: `cpu${i}` },
  }));
  const source = writeIndexLayout(join(dir, 'src'), [{ platform: 'linux/amd64', tars: [ONE] }], same);
  await assert.rejects(convert(source, `oci:${dir}/out:x`, { workDir: dir, platform: 'all' }), {
    code: 'OBD_CONVERT_BAD_IMAGE',
    message: /more than 256 images/,
  });
});

test('A single image is converted as such when all platforms are asked for', async (t) => {
  const dir = tempDir(t);
  const source = writeLayout(join(dir, 'src'), [ONE]);
  const result = await convert(source, `oci:${dir}/out:x`, { workDir: dir, platform: 'all' });
  assert.equal(result.images, undefined);
  await resolveManifest(openImageSource(`oci:${dir}/out:x`, anonymous));
});

test('A referrer names its source, and is listed whether the registry can do that or not', async (t) => {
  const dir = tempDir(t);
  for (const listing of [true, false]) {
    await using server = await startRegistryServer({
      directory: join(dir, `registry-${String(listing)}`),
      ...(!listing && { referrers: false }),
    });
    const client = new RegistryClient({ plainHttpHosts: [server.host] });
    const source = writeIndexLayout(join(dir, 'src'), [{ platform: 'linux/amd64', tars: [ONE] }]);
    const name = `docker://${server.host}/team/app:x`;
    const options = { workDir: dir, client, referrer: true, tag: false } as const;
    const one = await convert(source, name, { ...options, platform: { os: 'linux', architecture: 'amd64' } });
    const again = await convert(source, name, {
      ...options,
      platform: { os: 'linux', architecture: 'amd64' },
      zfile: { blockSize: 16384 },
    });
    const both = await convert(source, name, { ...options, platform: 'all' });
    const from = await resolveManifest(openImageSource(source, anonymous), {
      os: 'linux',
      architecture: 'amd64',
    });
    const made = await openImageSource(
      `docker://${server.host}/team/app@${one.descriptor.digest}`,
      client,
    ).resolve();
    assert.equal(made.kind, 'manifest');
    const { mediaType, digest: subject, size } = from.descriptor;
    assert.deepEqual(made.manifest.subject, { mediaType, digest: subject, size });
    assert.equal(made.manifest.artifactType, 'application/vnd.containerd.overlaybd.native.v1+json');

    const listed = async (digest: string): Promise<string[]> => {
      const path = listing ? `referrers/${digest}` : `manifests/${digest.replace(':', '-')}`;
      const response = await fetch(`http://${server.host}/v2/team/app/${path}`);
      assert.equal(response.status, 200);
      const { manifests } = (await response.json()) as Index;
      for (const entry of manifests)
        assert.equal(entry.artifactType, 'application/vnd.containerd.overlaybd.native.v1+json');
      return manifests.map((entry) => entry.digest).sort();
    };
    assert.deepEqual(await listed(subject), [one, again].map(({ descriptor }) => descriptor.digest).sort());
    assert.deepEqual(await listed(both.source.digest), [both.descriptor.digest]);
    const tags = (await (await fetch(`http://${server.host}/v2/team/app/tags/list`)).json()) as {
      tags: string[];
    };
    assert.equal(tags.tags.includes('x'), false);
    await client.close();
  }
});
