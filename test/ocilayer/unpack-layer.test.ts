import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import test from 'node:test';
import { gzipSync } from 'node:zlib';
import { compress } from 'zstd-napi';
import { layerPacking, unpackLayer } from '../../src/ocilayer/index.js';
import { checkout } from '../support/fixtures.js';

async function* inChunks(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size);
}

async function unpack(bytes: Uint8Array, chunk = 1000): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of unpackLayer(inChunks(bytes, chunk), 'test')) parts.push(part.slice());
  return Buffer.concat(parts);
}

const plain = Buffer.concat([Buffer.alloc(900_000, 'text '), randomBytes(60_000)]);
const half = plain.length >> 1;
const skippable = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);

for (const [what, packed] of [
  ['plain', plain],
  ['gzip', gzipSync(plain)],
  [
    'gzip of several members',
    Buffer.concat([gzipSync(plain.subarray(0, half)), gzipSync(plain.subarray(half)), gzipSync('')]),
  ],
  ['gzip padded with zeros', Buffer.concat([gzipSync(plain), Buffer.alloc(700)])],
  ['zstd', compress(plain)],
  [
    'zstd of several frames',
    Buffer.concat([compress(plain.subarray(0, half)), compress(plain.subarray(half))]),
  ],
  ['zstd with skippable frames around', Buffer.concat([skippable, compress(plain), skippable])],
] as const)
  for (const chunk of [13, 4096, 10_000_000])
    test(`unpackLayer() unpacks ${what}, in chunks of ${chunk}`, async () => {
      assert.ok((await unpack(packed, chunk)).equals(plain));
    });

for (const [what, packed, message] of [
  ['a gzip stream cut short', gzipSync(plain).subarray(0, -5), /gzip stream: unexpected end/],
  [
    'a gzip member cut short',
    Buffer.concat([gzipSync(plain), gzipSync(plain).subarray(0, 5000)]),
    /gzip stream: unexpected end/,
  ],
  ['a zstd frame cut short', compress(plain).subarray(0, -5), /zstd stream: unexpected end/],
  ['a zstd header alone', compress(plain).subarray(0, 5), /zstd stream: unexpected end/],
  [
    'something else behind a zstd frame',
    Buffer.concat([compress(plain), Buffer.from('garbage')]),
    /zstd stream/,
  ],
] as const)
  test(`unpackLayer() refuses ${what}`, () =>
    assert.rejects(unpack(packed), { code: 'OBD_CONVERT_BAD_TAR', message }));

test('unpackLayer() notices damage in every part of a gzip stream', async () => {
  const packed = gzipSync(plain);
  for (const at of [3000, packed.length >> 1, packed.length - 6, packed.length - 2]) {
    const damaged = Buffer.from(packed);
    damaged[at] = (damaged[at] ?? 0) ^ 0x10;
    await assert.rejects(
      unpack(damaged),
      { code: 'OBD_CONVERT_BAD_TAR', message: /gzip stream/ },
      String(at),
    );
  }
});

test('unpackLayer() refuses xz by its name', async () => {
  const xz = Buffer.concat([Buffer.from('fd377a585a000004', 'hex'), randomBytes(1000)]);
  for (const chunk of [1, 4096]) await assert.rejects(unpack(xz, chunk), /packed with xz/);
});

test('unpackLayer() gives an empty blob as nothing', async () => {
  assert.equal((await unpack(new Uint8Array())).length, 0);
  assert.equal(layerPacking(new Uint8Array()), 'plain');
});

test('unpackLayer() reads the blob to its end, where its digest is checked', async () => {
  for (const packed of [
    plain,
    Buffer.concat([gzipSync(plain), Buffer.from('garbage'.repeat(1000))]),
    compress(plain),
  ]) {
    async function* failing(): AsyncGenerator<Uint8Array> {
      yield* inChunks(packed, 1000);
      throw new Error('digest is wrong');
    }
    await assert.rejects(async () => {
      for await (const part of unpackLayer(failing(), 'test')) assert.ok(part.byteLength > 0);
    }, /digest is wrong/);
  }
});

/** In a process of its own: what other tests left for the collector does not count. Prints the most buffers held. */
const unpackBomb = `
const { gzipSync } = await import('node:zlib');
const { compress } = (await import('zstd-napi')).default;
const { unpackLayer } = await import(process.argv[1]);
const [members, each] = [32, 16 * 2 ** 20];
for (const pack of [gzipSync, compress]) {
  const packed = Buffer.concat(Array(members).fill(pack(Buffer.alloc(each))));
  let [seen, most] = [0, 0];
  for await (const part of unpackLayer((async function* () { yield packed; })(), 'test')) {
    seen += part.byteLength;
    if (seen % 2 ** 25 < part.byteLength) most = Math.max(most, process.memoryUsage().arrayBuffers);
  }
  console.log(seen === members * each ? most : 'wrong length');
}`;

test('unpackLayer() holds little of a layer that packs ten thousand to one', () => {
  const module = new URL('../../src/ocilayer/unpack-layer.js', import.meta.url).href;
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', unpackBomb, '--', module],
    { cwd: checkout, encoding: 'utf8' },
  );
  const most = stdout.trim().split('\n').map(Number);
  assert.equal(most.length, 2, stderr);
  for (const bytes of most) assert.ok(bytes < 128 * 2 ** 20, `${bytes} bytes`);
});

test('unpackLayer() that is broken off ends the iteration of the blob', async () => {
  let ended = false;
  async function* blob(): AsyncGenerator<Uint8Array> {
    try {
      yield* inChunks(plain, 1000);
    } finally {
      ended = true;
    }
  }
  for await (const part of unpackLayer(blob(), 'test')) {
    assert.ok(part.byteLength > 0);
    break;
  }
  await new Promise(setImmediate);
  assert.ok(ended);
});
