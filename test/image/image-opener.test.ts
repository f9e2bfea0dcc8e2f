import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, openSync, readdirSync, readFileSync, statSync, writeSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { silentLogger } from '../../src/log/index.js';
import {
  defaultServiceConfig,
  ImageOpener,
  makeImageConfig,
  type HostedImage,
  type ImageConfig,
  type ServiceConfig,
} from '../../src/image/index.js';
import { readDeviceDump } from '../support/device-dump.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { goldenConfig, unpackedFixtures, wrongChunks } from '../support/golden-images.js';
import { scriptedServer, sendRange, type ScriptedServer } from '../support/scripted-server.js';
import { tempDir } from '../support/unpack.js';

/** A registry that has the given files, and the digests under which it has them. */
async function serve(
  files: readonly string[],
): Promise<{ server: ScriptedServer; digests: string[]; contents: Buffer[] }> {
  const contents = files.map((file) => readFileSync(file));
  const digests = contents.map((bytes) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`);
  const server = await scriptedServer((request, response) => {
    const bytes = contents[digests.indexOf(request.url.split('/').at(-1) ?? '')];
    if (bytes === undefined) response.writeHead(404).end();
    else sendRange(request, response, bytes);
  });
  return { server, digests, contents };
}

function serviceConfig(dir: string, server: ScriptedServer): ServiceConfig {
  const config = defaultServiceConfig(silentLogger);
  return {
    ...config,
    credentialFilePath: '',
    cacheConfig: { ...config.cacheConfig, cacheDir: join(dir, 'cache'), refillSize: 65536 },
    gzipCacheConfig: { ...config.gzipCacheConfig, enable: true, cacheDir: join(dir, 'gzip') },
    registryConfig: { plainHttpHosts: [server.host], skipVerifyHosts: [], caFiles: [] },
  };
}

/** Runs `use` on an image opened as by a process of its own. */
async function withImage(
  service: ServiceConfig,
  config: ImageConfig,
  use: (image: HostedImage) => Promise<void>,
): Promise<void> {
  const opener = new ImageOpener(service, silentLogger);
  try {
    const image = await opener.openConfig(config, { mode: 'read' });
    try {
      await use(image);
    } finally {
      await image.close();
    }
  } finally {
    await opener.close();
  }
}

/** A golden image whose local layers lie in a registry instead. */
async function remoteImage(
  name: string,
): Promise<{ server: ScriptedServer; config: ImageConfig; digests: string[]; contents: Buffer[] }> {
  const local = goldenConfig(join(unpackedFixtures(), name));
  const { server, digests, contents } = await serve(local.lowers.map(({ file }) => file));
  const lowers = digests.map((digest, i) => ({ digest, size: contents[i]?.byteLength ?? 0 }));
  const config = makeImageConfig({ repoBlobUrl: `${server.url}/v2/r/blobs`, lowers }, 'test', silentLogger);
  return { server, config, digests, contents };
}

test('ImageOpener reads remote layers once and then from its cache', { skip: noFixtures }, async (t) => {
  const { server, config } = await remoteImage('small/native-lz4/image.json');
  t.after(() => server[Symbol.asyncDispose]());
  const service = serviceConfig(tempDir(t), server);
  const dump = readDeviceDump(fixture('small/native-lz4/device.json'));
  await withImage(service, config, async (image) => {
    const before = image.stats();
    assert.ok(before.bytesFetched < before.remoteBytes / 2, `opening fetched ${before.bytesFetched}`);
    assert.deepEqual(await wrongChunks(image.blob, dump), []);
    const after = image.stats();
    assert.ok(after.bytesFetched > before.bytesFetched && after.bytesFetched <= after.remoteBytes);
    assert.ok(after.presentBytes > 0);
  });
  const requests = server.seen.length;
  await withImage(service, config, async (image) => {
    assert.deepEqual(await wrongChunks(image.blob, dump), []);
    assert.equal(image.stats().bytesFetched, 0);
  });
  assert.equal(server.seen.length, requests);
});

test(
  'ImageOpener fetches again what was damaged in the cache, header and table included',
  { skip: noFixtures },
  async (t) => {
    const { server, config } = await remoteImage('small/native-zstd/image.json');
    t.after(() => server[Symbol.asyncDispose]());
    const dir = tempDir(t);
    const service = serviceConfig(dir, server);
    const dump = readDeviceDump(fixture('small/native-zstd/device.json'));
    await withImage(service, config, async (image) => {
      assert.deepEqual(await wrongChunks(image.blob, dump), []);
    });
    const digests = config.lowers.map(({ digest }) => digest);
    const paths = readdirSync(join(dir, 'cache'), { recursive: true, encoding: 'utf8' })
      .map((name) => join(dir, 'cache', name))
      .filter((path) => digests.some((digest) => path.endsWith(digest) || path.endsWith(digest.slice(7))));
    assert.equal(paths.length, digests.length);
    for (const path of paths) {
      const { size } = statSync(path);
      const fd = openSync(path, 'r+');
      // Inside the ZFile's header, in the middle of the data, and in the jump table.
      for (const at of [1536 + 80, Math.floor(size / 2), size - 1024 - 512 - 40]) {
        if (at > 4096 || at === 1536 + 80) writeSync(fd, Buffer.alloc(16, 0xa5), 0, 16, at);
      }
      closeSync(fd);
    }
    await withImage(service, config, async (image) => {
      assert.deepEqual(await wrongChunks(image.blob, dump), []);
      const { bytesFetched, remoteBytes } = image.stats();
      assert.ok(bytesFetched > 0 && bytesFetched < remoteBytes);
    });
  },
);

test(
  'ImageOpener loses only the damaged block of a layer that is damaged in the registry',
  { skip: noFixtures },
  async (t) => {
    const bad = fixture('small/bad/zf-block-crc.zf');
    const { server, digests } = await serve([bad]);
    t.after(() => server[Symbol.asyncDispose]());
    const service = serviceConfig(tempDir(t), server);
    const config = makeImageConfig(
      { repoBlobUrl: `${server.url}/v2/r/blobs`, lowers: [{ digest: digests[0] ?? '' }] },
      'test',
      silentLogger,
    );
    await withImage(service, config, async (image) => {
      const sector = new Uint8Array(512);
      await assert.rejects(image.blob.read(14871 * 512, sector), { message: /crc error in block 6/ });
      await image.blob.read(14870 * 512, sector);
      await image.blob.read(16031 * 512, sector);
      assert.equal(image.stats().remoteBytes, statSync(bad).size);
    });
  },
);

test('ImageOpener keeps the plain bytes of gzip targets', { skip: noFixtures }, async (t) => {
  const local = goldenConfig(join(unpackedFixtures(), 'small/turbooci/image.json'));
  const targets = local.lowers.map(({ targetFile }) => targetFile).filter((file) => file !== '');
  const { server, digests } = await serve(targets);
  t.after(() => server[Symbol.asyncDispose]());
  const dir = tempDir(t);
  const service = serviceConfig(dir, server);
  const lowers = local.lowers.map((lower) => ({
    ...lower,
    targetFile: '',
    targetDigest: lower.targetFile === '' ? '' : (digests[targets.indexOf(lower.targetFile)] ?? ''),
  }));
  const config = makeImageConfig({ repoBlobUrl: `${server.url}/v2/r/blobs`, lowers }, 'test', silentLogger);
  const dump = readDeviceDump(fixture('small/turbooci/device.json'));
  await withImage(service, config, async (image) => {
    assert.deepEqual(await wrongChunks(image.blob, dump), []);
  });
  await withImage(service, config, async (image) => {
    assert.deepEqual(await wrongChunks(image.blob, dump), []);
    assert.equal(image.stats().bytesFetched, 0);
    // What is in the cache of plain bytes can be planned by I/O workers.
    assert.ok(image.planner?.files.every(({ kind }) => kind !== 'none'));
  });
  assert.ok(readdirSync(join(dir, 'gzip')).length > 0);
});

test('ImageOpener keeps the plain bytes of local gzip targets too', { skip: noFixtures }, async (t) => {
  const config = goldenConfig(join(unpackedFixtures(), 'small/turbooci/image.json'));
  const dump = readDeviceDump(fixture('small/turbooci/device.json'));
  for (const enable of [true, false]) {
    const dir = tempDir(t);
    const defaults = defaultServiceConfig(silentLogger);
    const service: ServiceConfig = {
      ...defaults,
      cacheConfig: { ...defaults.cacheConfig, cacheDir: join(dir, 'cache') },
      gzipCacheConfig: { ...defaults.gzipCacheConfig, enable, cacheDir: join(dir, 'gzip') },
    };
    const opener = new ImageOpener(service, silentLogger);
    // As the service opens it: for long.
    const image = await opener.openConfig(config, { mode: 'read', download: true });
    assert.deepEqual(await wrongChunks(image.blob, dump), []);
    assert.ok(image.planner?.files.every(({ kind }) => kind !== 'none'));
    await image.close();
    await opener.close();
    assert.ok(readdirSync(join(dir, enable ? 'gzip' : 'cache')).length > 0);
    assert.equal(existsSync(join(dir, enable ? 'cache' : 'gzip')), false);
  }
});

test('ImageOpener asks for both ends of a remote layer at once', { skip: noFixtures }, async (t) => {
  const file = fixture('small/native-lz4/layer1.tar');
  const content = readFileSync(file);
  const waiting: (() => void)[] = [];
  const server = await scriptedServer((request, response) => {
    waiting.push(() => {
      sendRange(request, response, content);
    });
    // Nothing is answered before both have come.
    if (server.seen.length >= 2) for (const answer of waiting.splice(0)) answer();
  });
  t.after(() => server[Symbol.asyncDispose]());
  const lowers = [{ digest: `sha256:${'1'.repeat(64)}`, size: content.length }];
  const config = makeImageConfig({ repoBlobUrl: `${server.url}/v2/r/blobs`, lowers }, 'test', silentLogger);
  await withImage(serviceConfig(tempDir(t), server), config, async (image) => {
    assert.ok(image.virtualSize > 0);
  });
});
