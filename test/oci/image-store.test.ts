import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { FileBlob, MemoryBlob } from '../../src/blob/index.js';
import {
  digestOf,
  isDigest,
  MediaType,
  openImageSource,
  openImageTarget,
  parseImageName,
  resolveManifest,
  type Descriptor,
  type ImageSource,
  type ImageTarget,
} from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import {
  parseFault,
  startRegistryServer,
  type RegistryServer,
  type RegistryServerOptions,
} from '../../src/registryserver/index.js';
import { patternBytes } from '../support/scripted-server.js';

let scratch = '';
let client: RegistryClient;
let server: RegistryServer;
let count = 0;
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'obd-oci-'));
  client = new RegistryClient({
    plainHttpHosts: ['127.0.0.1'],
    retry: { attempts: 10, baseMs: 5, maxPauseMs: 10 },
  });
  server = await startRegistryServer({ directory: join(scratch, 'registry') });
});
after(async () => {
  await client.close();
  await server.close();
  await rm(scratch, { recursive: true });
});

const layer = patternBytes(200_000);
const config = Buffer.from(
  JSON.stringify({
    architecture: 'amd64',
    os: 'linux',
    rootfs: { type: 'layers', diff_ids: [digestOf(layer)] },
  }),
);
const descriptorOf = (bytes: Uint8Array, mediaType: string): Descriptor => ({
  mediaType,
  digest: digestOf(bytes),
  size: bytes.byteLength,
});
const layerDescriptor = descriptorOf(layer, MediaType.OCI_LAYER);
const configDescriptor = descriptorOf(config, MediaType.OCI_CONFIG);
const manifest = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    mediaType: MediaType.OCI_MANIFEST,
    config: configDescriptor,
    layers: [layerDescriptor],
    annotations: null,
  }),
);

async function pushAll(target: ImageTarget): Promise<Descriptor> {
  assert.equal(await target.pushBlob(layerDescriptor, new MemoryBlob(layer)), 'pushed');
  assert.equal(await target.pushBlob(layerDescriptor, new MemoryBlob(layer)), 'exists');
  assert.equal(await target.pushBlob(configDescriptor, new MemoryBlob(config)), 'pushed');
  assert.equal(await target.hasBlob(layerDescriptor), true);
  const pushed = await target.pushManifest(manifest, MediaType.OCI_MANIFEST);
  const index = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MediaType.OCI_INDEX,
      manifests: [
        { ...pushed, platform: { os: 'linux', architecture: 'amd64' } },
        {
          ...pushed,
          platform: { os: 'unknown', architecture: 'unknown' },
          annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
        },
      ],
    }),
  );
  const descriptor = await target.pushManifest(index, MediaType.OCI_INDEX);
  await target.tag(descriptor);
  return descriptor;
}

async function readStream(source: ImageSource, descriptor: Descriptor): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of await source.streamBlob(descriptor))
    chunks.push(Buffer.from(chunk as Uint8Array));
  return Buffer.concat(chunks);
}

/** Reads one chunk and leaves. */
async function takeOne(stream: Readable): Promise<void> {
  const chunks = stream[Symbol.asyncIterator]();
  await chunks.next();
  await chunks.return?.();
}

const places: [string, () => string][] = [
  ['a registry', () => `docker://${server.host}/team/app-${++count}:v1`],
  ['an OCI layout', () => `oci:${join(scratch, `layout-${++count}`)}:v1`],
];

for (const [kind, nameOf] of places)
  describe(`an image in ${kind}`, () => {
    test('reads back as it was written', async () => {
      const name = nameOf();
      const index = await pushAll(openImageTarget(name, client));
      const source = openImageSource(name, client);
      const document = await source.resolve();
      assert.equal(document.kind, 'index');
      assert.equal(document.descriptor.digest, index.digest);
      const resolved = await resolveManifest(source, { os: 'linux', architecture: 'amd64' });
      assert.deepEqual(Buffer.from(resolved.bytes), manifest);
      assert.equal(resolved.manifest.annotations, undefined);
      assert.deepEqual(Buffer.from(await source.readBlob(resolved.manifest.config)), config);
      assert.deepEqual(await readStream(source, layerDescriptor), layer);
      const blob = await source.openBlob(layerDescriptor);
      const into = Buffer.alloc(1000);
      await blob.read(150_000, into);
      assert.deepEqual(into, layer.subarray(150_000, 151_000));
      await blob.close();
      await source.close();
    });

    test('another platform is an error that lists what there is', async () => {
      const name = nameOf();
      await pushAll(openImageTarget(name, client));
      await assert.rejects(
        resolveManifest(openImageSource(name, client), { os: 'linux', architecture: 's390x' }),
        (error: Error & { hint?: string }) => {
          assert.match(error.message, /Cannot find an image for linux\/s390x/);
          assert.match(String(error.hint), /It has linux\/amd64; choose with --platform/);
          return true;
        },
      );
    });

    test('what is not there is OBD_REGISTRY_NOT_FOUND', async () => {
      const name = nameOf();
      await pushAll(openImageTarget(name, client));
      await assert.rejects(openImageSource(name.replace(/:v1$/, ':v2'), client).resolve(), {
        code: 'OBD_REGISTRY_NOT_FOUND',
      });
      const missing = { ...layerDescriptor, digest: digestOf(Buffer.from('missing')) };
      await assert.rejects(readStream(openImageSource(name, client), missing), {
        code: 'OBD_REGISTRY_NOT_FOUND',
      });
    });

    test('content whose digest is wrong is refused', async () => {
      const target = openImageTarget(nameOf(), client);
      const wrong = { ...layerDescriptor, digest: digestOf(Buffer.from('other')) };
      await assert.rejects(target.pushBlob(wrong, new MemoryBlob(layer)), /digest|DIGEST/);
      assert.equal(await target.hasBlob(wrong), false);
      await assert.rejects(
        target.pushBlob({ ...layerDescriptor, size: 1 }, new MemoryBlob(layer)),
        RangeError,
      );
    });

    test('a damaged blob errors the stream instead of ending it', async () => {
      const name = nameOf();
      const target = openImageTarget(name, client);
      await pushAll(target);
      const root = name.startsWith('oci:') ? name.slice(4).replace(/:v1$/, '') : join(scratch, 'registry');
      const path = join(root, 'blobs', ...layerDescriptor.digest.split(':'));
      const good = await readFile(path);
      try {
        const bad = Buffer.from(good);
        bad[100_000] = (bad[100_000] ?? 0) ^ 1;
        await writeFile(path, bad);
        await assert.rejects(readStream(openImageSource(name, client), layerDescriptor), {
          code: 'OBD_REGISTRY_DIGEST',
          message: /its digest is/,
        });
        await appendFile(path, 'x');
        await assert.rejects(
          readStream(openImageSource(name, client), layerDescriptor),
          (error: { code?: string }) =>
            ['OBD_REGISTRY_DIGEST', 'OBD_REGISTRY_RESPONSE'].includes(error.code ?? ''),
        );
      } finally {
        await writeFile(path, good);
      }
    });

    test('a stream that is destroyed releases what it holds', async () => {
      const name = nameOf();
      await pushAll(openImageTarget(name, client));
      const source = openImageSource(name, client);
      const fds = async (): Promise<number> => (await readdir('/proc/self/fd')).length;
      const first = await source.streamBlob(layerDescriptor);
      await takeOne(first);
      const before = await fds();
      for (let i = 0; i < 20; i++) {
        const stream = await source.streamBlob(layerDescriptor);
        if (i % 2 === 0) stream.destroy();
        else await takeOne(stream);
      }
      // The registry of this test lives in this process and lets go of its files a little later.
      for (let waits = 0; (await fds()) > before + 2; waits++) {
        assert.ok(waits < 50, `${await fds()} open files, ${before} before`);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      const controller = new AbortController();
      const stream = await source.streamBlob(layerDescriptor, { signal: controller.signal });
      controller.abort();
      await assert.rejects(stream.toArray(), { code: 'OBD_ABORTED' });
    });
  });

describe('an OCI layout', () => {
  test('replaces a tag, keeps others, and is read by index order without one', async () => {
    const directory = join(scratch, 'tags');
    const one = openImageTarget(`oci:${directory}:one`, client);
    await pushAll(one);
    const two = openImageTarget(`oci:${directory}:two`, client);
    await two.tag(await two.pushManifest(manifest, MediaType.OCI_MANIFEST));
    await one.tag(await one.pushManifest(manifest, MediaType.OCI_MANIFEST));
    const { manifests } = JSON.parse(await readFile(join(directory, 'index.json'), 'utf8')) as {
      manifests: Descriptor[];
    };
    assert.deepEqual(
      manifests.map((entry) => entry.annotations?.['org.opencontainers.image.ref.name']).sort(),
      ['one', 'two'],
    );
    await assert.rejects(openImageSource(`oci:${directory}`, client).resolve(), {
      code: 'OBD_CONFIG_VALUE',
      message: /it holds 2/,
    });
    await assert.rejects(openImageSource(`oci:${scratch}/none`, client).resolve(), {
      code: 'OBD_CONFIG_NOT_FOUND',
    });
    assert.ok(
      (await readdir(join(directory, 'blobs', 'sha256'))).every((name) => isDigest(`sha256:${name}`)),
      'no temporary files',
    );
  });
});

describe('a registry that fails', () => {
  async function withServer(
    options: Partial<RegistryServerOptions>,
    work: (name: string, server: RegistryServer) => Promise<void>,
  ): Promise<void> {
    await using failing = await startRegistryServer({
      directory: join(scratch, `failing-${++count}`),
      ...options,
    });
    await work(`docker://${failing.host}/a/b:1`, failing);
  }

  test('is pushed to and read from all the same', async () => {
    const faults = [
      'status=503,every=5',
      'truncate,every=3,on=blobs',
      'status=429,every=7,retry-after=0',
    ].map(parseFault);
    await withServer({ faults }, async (name) => {
      await pushAll(openImageTarget(name, client));
      const source = openImageSource(name, client);
      for (let i = 0; i < 5; i++) assert.deepEqual(await readStream(source, layerDescriptor), layer);
    });
  });

  test('gets a large blob in chunks, each sent again where it broke', async () => {
    const size = 70 * 1024 * 1024;
    const path = join(scratch, 'large');
    const large = Buffer.alloc(size);
    patternBytes(1_000_000, 7).copy(large, 40_000_000);
    await writeFile(path, large);
    const content = await FileBlob.open(path);
    const descriptor = descriptorOf(large, MediaType.OCI_LAYER);
    // Uploads: POST, PATCH, PATCH (fails), GET, ...
    await withServer({ faults: [parseFault('status=502,every=3,on=uploads')] }, async (name, failing) => {
      let progress = 0;
      const target = openImageTarget(name, client);
      assert.equal(
        await target.pushBlob(descriptor, content, { onProgress: (bytes) => (progress += bytes) }),
        'pushed',
      );
      assert.equal(progress, size);
      assert.ok(failing.stats.requests >= 7);
      assert.ok(await target.hasBlob(descriptor));
    });
    await content.close();
  });

  test('mounts from another repository what it has there', async () => {
    await withServer({}, async (name, other) => {
      await pushAll(openImageTarget(name, client));
      const target = openImageTarget(`docker://${other.host}/c/d:1`, client);
      assert.equal(
        await target.pushBlob(layerDescriptor, new MemoryBlob(layer), { mountFrom: 'a/b' }),
        'mounted',
      );
      const elsewhere = { digest: digestOf(Buffer.from('new')), size: 3 };
      assert.equal(
        await target.pushBlob(elsewhere, new MemoryBlob(Buffer.from('new')), { mountFrom: 'a/b' }),
        'pushed',
      );
    });
  });
});

describe('parseImageName()', () => {
  test('reads the two kinds and bare references', () => {
    assert.deepEqual(parseImageName('docker://a/b:c'), { kind: 'docker', reference: 'a/b:c' });
    assert.deepEqual(parseImageName('debian:12'), { kind: 'docker', reference: 'debian:12' });
    assert.deepEqual(parseImageName('oci:/x/y'), { kind: 'oci', directory: '/x/y', tag: undefined });
    assert.deepEqual(parseImageName('oci:x:t'), { kind: 'oci', directory: 'x', tag: 't' });
  });
  test('names the kinds that there are when it refuses one', () => {
    for (const name of ['docker-daemon:x', 'dir:a/b', 'https://r.example/a', 'oci:', 'oci:x:'])
      assert.throws(() => parseImageName(name), { code: 'OBD_CONFIG_VALUE' }, name);
  });
});
