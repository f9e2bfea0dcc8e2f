import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  defaultServiceConfig,
  ImageOpener,
  makeImageConfig,
  type ImageConfig,
  type ServiceConfig,
} from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { readDeviceDump } from '../support/device-dump.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { goldenConfig, unpackedFixtures, wrongChunks } from '../support/golden-images.js';
import { scriptedServer, sendRange, type ScriptedServer } from '../support/scripted-server.js';
import { tempDir } from '../support/unpack.js';

const NAME = 'small/native-lz4';

interface Setup {
  readonly server: ScriptedServer;
  readonly service: ServiceConfig;
  readonly config: ImageConfig;
  readonly files: { readonly digest: string; readonly bytes: Buffer; readonly dir: string }[];
}

/** A golden image in a registry, whose configuration says that it is to be downloaded at once. */
async function setUp(dir: string, more: Record<string, unknown> = {}): Promise<Setup> {
  const files = goldenConfig(join(unpackedFixtures(), NAME, 'image.json')).lowers.map(({ file }, i) => {
    const bytes = readFileSync(file);
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    return { bytes, digest, dir: join(dir, `layer${i}`) };
  });
  const server = await scriptedServer((request, response) => {
    const file = files.find(({ digest }) => request.url.endsWith(digest));
    if (file === undefined) response.writeHead(404).end();
    else sendRange(request, response, file.bytes);
  });
  const defaults = defaultServiceConfig(silentLogger);
  const lowers = files.map(({ digest, bytes, dir: layerDir }) => ({
    digest,
    size: bytes.length,
    dir: layerDir,
  }));
  return {
    server,
    files,
    service: {
      ...defaults,
      credentialFilePath: '',
      cacheConfig: { ...defaults.cacheConfig, cacheDir: join(dir, 'cache'), refillSize: 65536 },
      registryConfig: { plainHttpHosts: [server.host], skipVerifyHosts: [], caFiles: [] },
    },
    config: makeImageConfig(
      {
        repoBlobUrl: `${server.url}/v2/r/blobs`,
        lowers,
        download: { enable: true, delay: 0, delayExtra: 0 },
        ...more,
      },
      'test',
      silentLogger,
    ),
  };
}

test(
  'ImageOpener downloads layers in the background while the image is read, and opens them locally next time',
  { skip: noFixtures },
  async (t) => {
    const dir = tempDir(t);
    const { server, service, config, files } = await setUp(dir);
    t.after(() => server[Symbol.asyncDispose]());
    const dump = readDeviceDump(fixture(NAME, 'device.json'));
    const opener = new ImageOpener(service, silentLogger);
    t.after(() => opener.close());
    const image = await opener.openConfig(config, { mode: 'read', download: true });
    assert.deepEqual(await wrongChunks(image.blob, dump), []);
    while (image.stats().download?.state !== 'done') await sleep(5);
    for (const { dir: layer, bytes } of files)
      assert.ok(readFileSync(join(layer, 'overlaybd.commit')).equals(bytes));
    assert.deepEqual(await wrongChunks(image.blob, dump), []);
    const stored = files.reduce((sum, { bytes }) => sum + bytes.length, 0);
    assert.ok(image.stats().bytesFetched <= stored, 'no byte was fetched twice');
    await image.close();

    const again = await opener.openConfig(config, { mode: 'read', download: true });
    assert.ok(again.lowers.every(({ source }) => source.kind === 'file'));
    assert.equal(again.stats().download, undefined);
    assert.deepEqual(await wrongChunks(again.blob, dump), []);
    await again.close();
  },
);

test('ImageOpener does not download while a trace is recorded', { skip: noFixtures }, async (t) => {
  const dir = tempDir(t);
  const trace = join(dir, 'trace');
  writeFileSync(trace, '');
  const { server, service, config, files } = await setUp(dir, { recordTracePath: trace });
  t.after(() => server[Symbol.asyncDispose]());
  const opener = new ImageOpener(service, silentLogger);
  t.after(() => opener.close());
  const image = await opener.openConfig(config, { mode: 'read', download: true });
  assert.equal(image.stats().download, undefined);
  await image.close();
  assert.ok(files.every(({ dir: layer }) => !existsSync(layer)));
});

test('ImageOpener stops the download when the image is closed', { skip: noFixtures }, async (t) => {
  const dir = tempDir(t);
  const { server, service, config, files } = await setUp(dir, {
    download: { enable: true, delay: 3600 },
  });
  t.after(() => server[Symbol.asyncDispose]());
  const opener = new ImageOpener(service, silentLogger);
  t.after(() => opener.close());
  const image = await opener.openConfig(config, { mode: 'read', download: true });
  assert.equal(image.stats().download?.state, 'waiting');
  await image.close();
  assert.equal(image.stats().download?.state, 'stopped');
  assert.ok(files.every(({ dir: layer }) => !existsSync(layer)));
});
