import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { appendFileSync, readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import {
  convertImage,
  LayerCache,
  planConversion,
  type ConvertedImage,
  type ConvertOptions,
} from '../../src/convert/index.js';
import { openImageSource, openImageTarget } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer, type RegistryServerOptions } from '../../src/registryserver/index.js';
import { tempDir } from '../support/unpack.js';
import { digest, tarOf, writeLayout } from './make-image.js';

const MIB = 2 ** 20;
const PLATFORM = { os: 'linux', architecture: 'amd64' };
const TARS = ['a', 'b', 'c'].map((path) => tarOf([{ path, content: path.repeat(10_000) }]));

/** A registry, a work directory and a cache. */
async function setUp(t: TestContext, options: Partial<RegistryServerOptions> = {}) {
  const dir = tempDir(t);
  const requests: string[] = [];
  const server = await startRegistryServer({
    directory: join(dir, 'registry'),
    onRequest: ({ method, path }) => requests.push(`${method} ${path}`),
    ...options,
  });
  const client = new RegistryClient({ plainHttpHosts: [server.host], retry: { attempts: 3, baseMs: 5 } });
  const cache = LayerCache.open(join(dir, 'cache'));
  t.after(async () => {
    await client.close();
    await server.close();
  });
  const convert = (
    source: string,
    target: string,
    more: Partial<ConvertOptions> = {},
  ): Promise<ConvertedImage> =>
    convertImage(openImageSource(source, client), openImageTarget(target, client), {
      workDir: dir,
      virtualSize: 64 * MIB,
      platform: PLATFORM,
      cache,
      ...more,
    });
  return { dir, server, client, cache, requests, convert };
}

const outcomes = ({ layers }: ConvertedImage): [boolean, string][] =>
  layers.map(({ reused, outcome }) => [reused, outcome]);

test('Layers that were converted before are not fetched again, in another image and repository', async (t) => {
  const { dir, server, convert, requests } = await setUp(t);
  // The server shows layouts in its directory as repositories.
  writeLayout(join(dir, 'registry', 'src'), TARS.slice(0, 2));
  writeLayout(join(dir, 'registry', 'larger'), TARS);
  const source = `docker://${server.host}/src:src`;
  const name = `docker://${server.host}/a:x`;
  const first = await convert(source, name);
  assert.deepEqual(outcomes(first), [
    [false, 'pushed'],
    [false, 'pushed'],
  ]);
  requests.length = 0;
  const second = await convert(source, name);
  assert.equal(second.descriptor.digest, first.descriptor.digest);
  assert.deepEqual(second.layers[0]?.counts, first.layers[0]?.counts);
  assert.deepEqual(outcomes(second), [
    [true, 'exists'],
    [true, 'exists'],
  ]);
  assert.equal(
    requests.filter((request) => /GET .*\/src\/blobs\//.test(request)).length,
    1,
    'its configuration',
  );
  // Another repository of the registry gets them without their passing through here.
  requests.length = 0;
  const mounted = await convert(source, `docker://${server.host}/b/c:x`);
  assert.equal(mounted.descriptor.digest, first.descriptor.digest);
  assert.deepEqual(outcomes(mounted), [
    [true, 'mounted'],
    [true, 'mounted'],
  ]);
  assert.equal(requests.filter((request) => request.startsWith('PATCH')).length, 0);
  // One more layer on top: only that one is made, and is what it is without a cache.
  const larger = await convert(`docker://${server.host}/larger:src`, name);
  assert.deepEqual(outcomes(larger), [
    [true, 'exists'],
    [true, 'exists'],
    [false, 'pushed'],
  ]);
  const fresh = await convert(`docker://${server.host}/larger:src`, `oci:${dir}/fresh:x`);
  assert.equal(larger.descriptor.digest, fresh.descriptor.digest);
});

test('A layer that the target lost is made again, those above it are not', async (t) => {
  const { dir, server, convert } = await setUp(t);
  const source = writeLayout(join(dir, 'src'), TARS);
  const name = `docker://${server.host}/a:x`;
  const first = await convert(source, name);
  const lost = first.layers[1]?.descriptor.digest ?? '';
  const response = await fetch(`http://${server.host}/v2/a/blobs/${lost}`, { method: 'DELETE' });
  assert.equal(response.status, 202);
  const second = await convert(source, name);
  assert.deepEqual(outcomes(second), [
    [true, 'exists'],
    [false, 'pushed'],
    [true, 'exists'],
  ]);
  assert.equal(second.descriptor.digest, first.descriptor.digest);
});

test('Whichever layers are reused, the others come out as they would without', async (t) => {
  const { dir, server, convert } = await setUp(t);
  const noise = randomBytes(300_000);
  const file = (path: string, from: number, to: number) => ({ path, content: noise.subarray(from, to) });
  const source = writeLayout(join(dir, 'src'), [
    tarOf([
      { path: 'd/' },
      file('d/a', 0, 90_000),
      file('d/b', 90_000, 100_000),
      { path: 'z', content: Buffer.alloc(50_000) },
    ]),
    tarOf([{ path: 'd/.wh.a' }, file('d/b', 0, 20_000), file('e', 100_000, 190_000)]),
    tarOf([]),
    tarOf([
      { path: '.wh.d' },
      { path: 'd/' },
      { path: 'y', content: Buffer.alloc(80_000) },
      file('x', 5000, 150_000),
    ]),
    tarOf([
      { path: '.wh.x' },
      file('w', 150_000, 300_000),
      ...Array.from({ length: 200 }, (_, i) => file(`n/${i}`, i, i + 3)),
    ]),
  ]);
  const name = `docker://${server.host}/a:x`;
  const first = await convert(source, name);
  for (const mask of [0b00001, 0b10000, 0b01010, 0b10101, 0b00110, 0b11100]) {
    const lost = first.layers.filter(({ index }) => ((mask >> index) & 1) === 1);
    for (const { descriptor } of lost)
      await fetch(`http://${server.host}/v2/a/blobs/${descriptor.digest}`, { method: 'DELETE' });
    const again = await convert(source, name);
    assert.deepEqual(
      again.layers.map(({ reused }) => reused),
      first.layers.map(({ index }) => ((mask >> index) & 1) === 0),
    );
    assert.equal(again.descriptor.digest, first.descriptor.digest, mask.toString(2));
  }
});

test('A registry that mounts nothing gets the blobs', async (t) => {
  const { dir, server, convert } = await setUp(t);
  const source = writeLayout(join(dir, 'src'), TARS.slice(0, 1));
  const first = await convert(source, `docker://${server.host}/a:x`);
  const { digest: gone = '' } = first.layers[0]?.descriptor ?? {};
  await fetch(`http://${server.host}/v2/a/blobs/${gone}`, { method: 'DELETE' });
  const second = await convert(source, `docker://${server.host}/b:x`);
  assert.deepEqual(outcomes(second), [[false, 'pushed']]);
  assert.deepEqual(readdirSync(join(dir, 'registry', '.obd-uploads')), [], 'no upload is left open');
});

test('planConversion() finds out the same, and writes nothing', async (t) => {
  const { dir, server, client, cache, requests, convert } = await setUp(t);
  const source = writeLayout(join(dir, 'src'), TARS.slice(0, 2));
  const larger = writeLayout(join(dir, 'larger'), TARS);
  const plan = async (from: string, repository: string): Promise<string[]> => {
    const [image, ...more] = await planConversion(
      openImageSource(from, client),
      openImageTarget(`docker://${server.host}/${repository}:x`, client),
      { workDir: dir, virtualSize: 64 * MIB, platform: PLATFORM, cache },
    );
    assert.ok(image);
    assert.equal(more.length, 0);
    for (const layer of image.layers)
      if (layer.action === 'convert') assert.equal(layer.unpackedSize, TARS[layer.index]?.length);
    return image.layers.map(({ action }) => action);
  };
  assert.deepEqual(await plan(source, 'a'), ['convert', 'convert']);
  await convert(source, `docker://${server.host}/a:x`);
  requests.length = 0;
  assert.deepEqual(await plan(source, 'a'), ['reuse', 'reuse']);
  assert.deepEqual(await plan(source, 'b'), ['mount', 'mount']);
  assert.deepEqual(await plan(larger, 'a'), ['apply', 'apply', 'convert']);
  assert.deepEqual(
    requests.filter((request) => !/^(GET|HEAD) /.test(request)),
    [],
  );
});

test('LayerCache keeps apart what differs, forgets what was not used longest, and bears damage', (t) => {
  const dir = tempDir(t);
  const cache = LayerCache.open(dir, 8000);
  const counts = { entries: 1, whiteouts: 0, bytes: 0, droppedXattrs: 0 };
  const identity = {
    chainId: digest(Buffer.from('x')),
    fsType: 'ext4',
    virtualSize: 1,
    codec: 1,
    blockSize: 4096,
  } as const;
  const layer = (n: number) => ({ digest: digest(Buffer.from(String(n))), size: n, dataSize: n, counts });
  cache.note(identity, layer(1), 'h/a');
  cache.note(identity, layer(1), 'h/b');
  assert.deepEqual(cache.find(identity)?.places, ['h/b', 'h/a']);
  // Another blob of the same layer: the places of the old one say nothing of it.
  cache.note(identity, layer(2), undefined);
  assert.deepEqual(cache.find(identity)?.places, []);
  for (const change of [
    { virtualSize: 2 },
    { codec: 2 },
    { blockSize: 8192 },
    { chainId: digest(Buffer.from('y')) },
  ])
    assert.equal(cache.find({ ...identity, ...change }), undefined);
  for (let i = 0; i < 30; i++) cache.note(identity, layer(2), `h/${i}`);
  assert.equal(cache.find(identity)?.places.length, 8);
  for (let virtualSize = 100; virtualSize < 200; virtualSize++)
    cache.note({ ...identity, virtualSize }, layer(3), 'h/a');
  // The log is bounded, and with it what is remembered.
  assert.ok(cache.size < 60 && cache.size >= 10, String(cache.size));
  assert.ok(statSync(join(dir, 'layers.jsonl')).size <= 17_000);
  assert.notEqual(cache.find({ ...identity, virtualSize: 199 }), undefined);
  assert.equal(cache.find({ ...identity, virtualSize: 100 }), undefined);
  // Two processes share it.
  const other = LayerCache.open(dir);
  assert.equal(other.find({ ...identity, virtualSize: 199 })?.size, 3);
  other.note({ ...identity, virtualSize: 7 }, layer(4), 'h/a');
  cache.note({ ...identity, virtualSize: 8 }, layer(5), 'h/a');
  // What a crash cut off costs that entry only, what is no entry nothing.
  const log = join(dir, 'layers.jsonl');
  truncateSync(log, statSync(log).size - 10);
  appendFileSync(log, `\n{"key":"x"}\nnonsense\n{"key":`);
  const again = LayerCache.open(dir);
  assert.equal(again.find({ ...identity, virtualSize: 7 })?.size, 4);
  assert.equal(again.find({ ...identity, virtualSize: 8 }), undefined);
  again.note({ ...identity, virtualSize: 9 }, layer(6), 'h/a');
  assert.equal(LayerCache.open(dir).find({ ...identity, virtualSize: 9 })?.size, 6);
  for (const garbage of [randomBytes(100_000), Buffer.from('x'), Buffer.alloc(200_000)]) {
    writeFileSync(log, garbage);
    const empty = LayerCache.open(dir, 8000);
    assert.equal(empty.size, 0);
    empty.note(identity, layer(7), 'h/a');
    assert.equal(LayerCache.open(dir).find(identity)?.size, 7);
  }
  assert.deepEqual(readdirSync(dir), ['layers.jsonl']);
});

test('A disk that is too small grows until the image fits, the same each time', async (t) => {
  const { dir, convert } = await setUp(t);
  const source = writeLayout(join(dir, 'src'), [tarOf([{ path: 'big', content: randomBytes(20 * MIB) }])]);
  // The start is what four times the packed layers would need: held low by a layer that packs well.
  const zeros = writeLayout(join(dir, 'zeros'), [
    tarOf([{ path: 'big', content: Buffer.alloc(30 * MIB, 'abc') }]),
  ]);
  const warnings: string[] = [];
  const grow = { virtualSize: 8 * MIB, growVirtualSize: true, warn: (text: string) => warnings.push(text) };
  assert.equal((await convert(source, `oci:${dir}/out:a`, grow)).virtualSize, 128 * MIB);
  assert.deepEqual(warnings, []);
  const first = await convert(zeros, `oci:${dir}/out:b`, grow);
  assert.equal(first.virtualSize, 32 * MIB);
  assert.equal(warnings.length, 2);
  assert.match(String(warnings[0]), /does not fit on a disk of 8388608 bytes: .* one of 16777216/);
  const again = await convert(zeros, `oci:${dir}/out:c`, grow);
  assert.equal(again.descriptor.digest, first.descriptor.digest);
  // Names may be what runs out: 8 MiB have some thousand inodes.
  const many = writeLayout(join(dir, 'many'), [
    tarOf(Array.from({ length: 1500 }, (_, i) => ({ path: `d/${i}` }))),
  ]);
  const files = await convert(many, `oci:${dir}/out:d`, grow);
  assert.ok(Number(files.virtualSize) > 8 * MIB);
});

test('Layers are fetched ahead of the one that is applied, each once, also when lines break', async (t) => {
  const { dir, server, convert } = await setUp(t);
  const tars = Array.from({ length: 6 }, (_, i) => tarOf([{ path: `f${i}`, content: randomBytes(700_000) }]));
  writeLayout(join(dir, 'registry', 'src'), tars);
  const local = await convert(writeLayout(join(dir, 'src'), tars), `oci:${dir}/out:local`);
  const before = server.stats.blobBytes;
  const result = await convert(`docker://${server.host}/src:src`, `oci:${dir}/out:remote`, {
    zfile: { blockSize: 4096 },
  });
  assert.equal(result.descriptor.digest, local.descriptor.digest);
  assert.ok(server.stats.blobBytes - before < 6 * 710_000, String(server.stats.blobBytes - before));
  assert.deepEqual(
    readdirSync(dir).filter((name) => name.startsWith('.obd')),
    [],
  );
});
