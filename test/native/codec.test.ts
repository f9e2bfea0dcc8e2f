import assert from 'node:assert/strict';
import test from 'node:test';
import { Codec, compress, compressBound, crc32c, decompress } from '../../src/native/index.js';

const text = new TextEncoder().encode('123456789');

test('crc32c() gives the vectors of formats.md section 0', () => {
  assert.equal(crc32c(text), 0x58e3fa20);
  assert.equal(crc32c(text, 100007), 0x3c9bd4e0);
  assert.equal(~crc32c(text, 0xffffffff) >>> 0, 0xe3069283);
});

test('crc32c() of long data is that of its bytes one by one', () => {
  const long = new Uint8Array(5000).map((_, i) => (i * 7919) >> 3);
  const prefixes = [0];
  for (const [i, byte] of long.entries()) prefixes.push(crc32c(new Uint8Array([byte]), prefixes[i]));
  for (const length of [1, 7, 255, 256, 767, 768, 769, 1535, 1536, 2304, 4095, 4096, 5000])
    assert.equal(crc32c(long.subarray(0, length), 0), prefixes[length], `${length} bytes`);
  assert.equal(
    crc32c(long.subarray(1, 4000), 100007),
    crc32c(long.subarray(2000, 4000), crc32c(long.subarray(1, 2000), 100007)),
  );
});

test('crc32c() chains over any split', () => {
  for (let cut = 0; cut <= text.length; cut++)
    assert.equal(crc32c(text.subarray(cut), crc32c(text.subarray(0, cut), 7)), crc32c(text, 7));
});

for (const [name, codec] of Object.entries(Codec))
  test(`${name} gives back what it was given`, () => {
    const plain = new Uint8Array(5000).map((_, i) => (i * i) >> 3);
    const packed = new Uint8Array(compressBound(codec, plain.length));
    const n = compress(codec, plain, packed);
    const out = new Uint8Array(5000);
    assert.equal(decompress(codec, packed.subarray(0, n), out), 5000);
    assert.deepEqual(out, plain);
    assert.throws(() => decompress(codec, packed.subarray(0, n), new Uint8Array(4999)), {
      code: 'OBD_FORMAT_CORRUPT_BLOCK',
    });
  });
