import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { MemoryBlob } from '../../src/blob/index.js';
import { crc32c } from '../../src/native/index.js';
import { GzipBlob, GzipIndex } from '../../src/gzip/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { sampleContent, testReadableBlob } from '../conformance/readable-blob.js';
import { gzipWithIndex } from './build-index.js';
import { readAll } from '../zfile/support.js';

const read = (name: string): Buffer => readFileSync(fixture(name));

test(
  'GzipBlob reads what gunzip gives, at random offsets and in sequence',
  { skip: noFixtures },
  async () => {
    for (const [gz, meta] of [
      ['small/bad/target.tar.gz', 'small/bad/good.gzip.meta'],
      ...[1, 2, 3].map((n) => [`small/ref-input/layer${n}.tar.gz`, `small/turbooci/layer${n}.gzip.meta`]),
    ] as [string, string][]) {
      const plain = gunzipSync(read(gz));
      const blob = await GzipBlob.open(new MemoryBlob(read(gz), gz), new MemoryBlob(read(meta), meta));
      assert.equal(blob.size, plain.length);
      assert.ok((await readAll(blob)).equals(plain), gz);
      for (let i = 0; i < 30; i++) {
        const offset = (i * 7_919_333) % plain.length;
        const into = Buffer.alloc(Math.min(50_000, plain.length - offset));
        await blob.read(offset, into);
        assert.ok(into.equals(plain.subarray(offset, offset + into.length)));
      }
      await blob.close();
    }
  },
);

test('GzipBlob reads forward without inflating a byte twice', { skip: noFixtures }, async () => {
  const gz = read('small/ref-input/layer1.tar.gz');
  let fetched = 0;
  class Counting extends MemoryBlob {
    override async read(offset: number, into: Uint8Array): Promise<void> {
      fetched += into.length;
      await super.read(offset, into);
    }
  }
  const blob = await GzipBlob.open(new Counting(gz), new MemoryBlob(read('small/turbooci/layer1.gzip.meta')));
  for (let at = 0; at + 4096 <= blob.size; at += 4096) await blob.read(at, new Uint8Array(4096));
  assert.ok(fetched <= gz.length + 16, `${fetched} of ${gz.length}`);
});

test('GzipIndex.open() refuses damaged indexes', { skip: noFixtures }, async () => {
  const size = read('small/bad/target.tar.gz').length;
  for (const [name, code] of [
    ['turbo-gzipmeta-crc.gzip.meta', 'OBD_FORMAT_CHECKSUM'],
    ['turbo-gzipmeta-magic.gzip.meta', 'OBD_FORMAT_BAD_MAGIC'],
    ['turbo-gzipmeta-truncated.gzip.meta', 'OBD_FORMAT_TRUNCATED'],
  ] as const)
    await assert.rejects(GzipIndex.open(new MemoryBlob(read(`small/bad/${name}`)), size), { code });
  await assert.rejects(
    GzipBlob.open(
      new MemoryBlob(read('small/bad/turbo-target-truncated.tar.gz')),
      new MemoryBlob(read('small/bad/good.gzip.meta')),
    ),
    { code: 'OBD_FORMAT_BAD_HEADER', message: /gzip file size/ },
  );
});

test(
  'GzipIndex.open() refuses an index with any header field changed under a right crc',
  { skip: noFixtures },
  async () => {
    const good = read('small/bad/good.gzip.meta');
    const size = read('small/bad/target.tar.gz').length;
    const change = (at: number, value: bigint): Buffer => {
      const bytes = Buffer.from(good);
      bytes.writeBigInt64LE(value, at);
      bytes.writeUInt32LE(crc32c(bytes.subarray(0, 329)), 329);
      return bytes;
    };
    for (const [at, values] of [
      [25, [-1n, 0n, 2n, 2n ** 40n]],
      [33, [-1n, 0n]],
      [41, [-1n, 404n]],
      [49, [-1n, 2n ** 60n]],
      [313, [-1n, 0n, 2n ** 62n]],
      [321, [-1n, 0n, 2n ** 62n]],
    ] as const)
      for (const value of values)
        await assert.rejects(
          GzipIndex.open(new MemoryBlob(change(at, value)), size),
          { code: /^OBD_FORMAT_/ },
          `${at} = ${value}`,
        );
  },
);

test(
  'GzipBlob.read() reports a stream that is shorter than its index says',
  { skip: noFixtures },
  async () => {
    const gz = read('small/bad/target.tar.gz');
    const meta = read('small/bad/good.gzip.meta');
    const longer = Buffer.from(meta);
    longer.writeBigInt64LE(longer.readBigInt64LE(49) + 1000n, 49);
    longer.writeUInt32LE(crc32c(longer.subarray(0, 329)), 329);
    const blob = await GzipBlob.open(new MemoryBlob(gz), new MemoryBlob(longer));
    await assert.rejects(blob.read(blob.size - 10, new Uint8Array(10)), {
      code: 'OBD_FORMAT_TRUNCATED',
      message: /deflate stream ends/,
    });

    const cut = gz.length - 5000;
    const shorter = Buffer.from(meta);
    shorter.writeBigInt64LE(BigInt(cut), 33);
    shorter.writeUInt32LE(crc32c(shorter.subarray(0, 329)), 329);
    const other = await GzipBlob.open(new MemoryBlob(gz.subarray(0, cut)), new MemoryBlob(shorter));
    await assert.rejects(readAll(other), { code: 'OBD_FORMAT_TRUNCATED', message: /gzip file ends/ });
  },
);

test('GzipBlob.read() reports broken deflate data', { skip: noFixtures }, async () => {
  const gz = read('small/bad/target.tar.gz');
  gz[10] = 0xff; // First block: type 3, which does not exist.
  const blob = await GzipBlob.open(new MemoryBlob(gz), new MemoryBlob(read('small/bad/good.gzip.meta')));
  await assert.rejects(readAll(blob), { code: 'OBD_FORMAT_CORRUPT_BLOCK' });
});

for (const [compressed, span] of [
  [true, 65536],
  [false, 10_000],
] as const)
  testReadableBlob({
    name: `GzipBlob (points every ${span} bytes)`,
    factory: async (content) => {
      const { gzip, index } = gzipWithIndex(content, span, compressed);
      return GzipBlob.open(new MemoryBlob(gzip), new MemoryBlob(index));
    },
    supports: { rejectsAfterClose: true },
  });

test('GzipBlob answers or fails with an error of the format, whatever byte of the index is wrong', async () => {
  const plain = sampleContent.subarray(0, 100_000);
  const { gzip, index } = gzipWithIndex(plain, 20_000);
  await fc.assert(
    fc.asyncProperty(
      fc.nat(index.length - 1),
      fc.integer({ min: 1, max: 255 }),
      fc.boolean(),
      async (at, flip, mend) => {
        const damaged = Buffer.from(index);
        damaged[at] = (damaged[at] ?? 0) ^ flip;
        if (mend) damaged.writeUInt32LE(crc32c(damaged.subarray(0, 329)), 329);
        try {
          const blob = await GzipBlob.open(new MemoryBlob(gzip), new MemoryBlob(damaged));
          for (const offset of [0, 15_000, 45_000, 99_000]) await blob.read(offset, new Uint8Array(1000));
        } catch (error) {
          if (error instanceof RangeError) return; // The plain size was made smaller.
          assert.match((error as { code?: string }).code ?? String(error), /^OBD_FORMAT_/);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('GzipBlob unpacks a span once for all who ask for it, and keeps it', async () => {
  const plain = Buffer.alloc(1 << 20, sampleContent);
  const { gzip, index } = gzipWithIndex(plain, 1 << 18);
  let fetched = 0;
  class Counting extends MemoryBlob {
    override async read(offset: number, into: Uint8Array): Promise<void> {
      fetched += into.length;
      await super.read(offset, into);
    }
  }
  const blob = await GzipBlob.open(new Counting(gzip), new MemoryBlob(index));
  const read = async (offset: number): Promise<void> => {
    const into = Buffer.alloc(4096);
    await blob.read(offset, into);
    assert.ok(into.equals(plain.subarray(offset, offset + 4096)), `at ${offset}`);
  };
  const offsets = Array.from({ length: 500 }, (_, i) => (i * 7_919_333) % (plain.length - 4096));
  await Promise.all(offsets.map(read));
  const once = fetched;
  // Each of the four begins with a decoder of its own, which fetches ahead.
  assert.ok(once <= gzip.length + 4 * (128 << 10) + 16, `${once} of ${gzip.length}`);
  for (const offset of offsets) await read(offset);
  assert.equal(fetched, once, 'what is kept is not fetched again');
  await blob.close();
});
