import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import {
  CRC_CHECKED,
  MemoryBlob,
  PLAN_STRIDE,
  ReadPlan,
  SliceBlob,
  type LocalFile,
} from '../../src/blob/index.js';
import { Codec, decompress } from '../../src/native/index.js';
import {
  encodeZFileEnd,
  JumpTable,
  JumpTableBuilder,
  parseZFileEnd,
  ZFilePlanner,
  ZFileReader,
  ZFileWriter,
} from '../../src/zfile/index.js';
import { sampleContent, testReadableBlob } from '../conformance/readable-blob.js';
import { HealingBlob, readAll, zfile } from './support.js';

for (const [codec, blockSize] of [
  [Codec.LZ4, 4096],
  [Codec.ZSTD, 4096],
  [Codec.LZ4, 32768],
  [Codec.ZSTD, 65536],
] as const)
  testReadableBlob({
    name: `ZFileReader (codec ${codec}, blocks of ${blockSize})`,
    factory: async (content) =>
      ZFileReader.open(new MemoryBlob((await zfile(content, { codec, blockSize })).bytes)),
    supports: {},
  });

test('ZFileWriter gives back any content through ZFileReader, header final or not', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.nat(60_000),
      fc.integer({ min: 1, max: 9000 }),
      fc.constantFrom(4096, 8192, 16384, 32768, 65536),
      fc.constantFrom(Codec.LZ4, Codec.ZSTD),
      fc.boolean(),
      async (size, step, blockSize, codec, finalHeader) => {
        const plain = sampleContent.subarray(0, size);
        const { bytes, summary } = await zfile(plain, { blockSize, codec, finalHeader, step });
        assert.equal(bytes.length, summary.storedSize);
        assert.equal(summary.plainSize, size);
        const reader = await ZFileReader.open(new MemoryBlob(bytes));
        assert.ok((await readAll(reader)).equals(plain));
      },
    ),
    { numRuns: 40 },
  );
});

test('ZFileWriter writes more than its batches hold, in order', async () => {
  const plain = Buffer.alloc(5 * 1024 * 1024 + 123);
  for (let i = 0; i < plain.length; i += 64) plain.writeUInt32LE(i, i - (i > plain.length - 4 ? 4 : 0));
  const { bytes, summary } = await zfile(plain, { step: plain.length });
  assert.equal(summary.blocks, Math.ceil(plain.length / 4096));
  assert.ok((await readAll(await ZFileReader.open(new MemoryBlob(bytes)))).equals(plain));
});

test('ZFileWriter passes on the error of its sink and accepts nothing after it', async () => {
  let writes = 0;
  const writer = new ZFileWriter({
    write: async () => {
      if (++writes === 3) throw new Error('disk full');
    },
  });
  const push = async (): Promise<void> => {
    for (let i = 0; i < 20; i++) await writer.write(new Uint8Array(1024 * 1024));
  };
  await assert.rejects(push, /disk full/);
  await assert.rejects(writer.finish(), TypeError);
  assert.equal(writes, 3);
});

test('ZFileWriter refuses block sizes that other readers do not take', () => {
  for (const blockSize of [0, 512, 5000, 131072])
    assert.throws(() => new ZFileWriter({ write: async () => undefined }, { blockSize }), RangeError);
});

test('ZFileReader fetches a damaged block again, once, through a slice', async () => {
  const { bytes } = await zfile(sampleContent);
  const damaged = Buffer.from(bytes);
  damaged[600] = (damaged[600] ?? 0) ^ 1;
  const healing = new HealingBlob(Buffer.from(damaged), bytes);
  const reader = await ZFileReader.open(new SliceBlob(healing, 0, healing.size));
  assert.ok((await readAll(reader)).equals(sampleContent));
  assert.equal(healing.refetches, 1);

  const hopeless = new HealingBlob(Buffer.from(damaged), damaged);
  const other = await ZFileReader.open(hopeless);
  await assert.rejects(readAll(other), { code: 'OBD_FORMAT_CHECKSUM', message: /block 0/ });
  assert.equal(hopeless.refetches, 1);
});

test('ZFileReader answers with right bytes or an error, whatever bit is wrong', async () => {
  const plain = sampleContent.subarray(0, 50_000);
  const { bytes } = await zfile(plain);
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
      const damaged = Buffer.from(bytes);
      damaged[at] = (damaged[at] ?? 0) ^ flip;
      try {
        const reader = await ZFileReader.open(new MemoryBlob(damaged));
        for (let offset = 0; offset < plain.length; offset += 4096) {
          const into = Buffer.alloc(Math.min(4096, plain.length - offset));
          await reader.read(offset, into);
          assert.ok(into.equals(plain.subarray(offset, offset + 4096)));
        }
      } catch (error) {
        assert.match((error as { code?: string }).code ?? String(error), /^OBD_FORMAT_/);
      }
    }),
    { numRuns: 300 },
  );
});

test('ZFileReader.open() allocates nothing for blocks that the file cannot hold', async () => {
  const { bytes } = await zfile(new Uint8Array(4096));
  for (const [blocks, indexOffset] of [
    [1_000_000_000, 600],
    [200, 544],
  ] as const) {
    const header = encodeZFileEnd({
      ...parseZFileEnd(bytes.subarray(0, 512), 'header', 'x', 0),
      blocks,
      plainSize: blocks * 4096,
      indexOffset,
    });
    bytes.set(header);
    await assert.rejects(ZFileReader.open(new MemoryBlob(bytes)), { code: 'OBD_FORMAT_BAD_INDEX' });
  }
});

test('JumpTable gives the offsets of all blocks for every block size', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 5, max: 4000 }), { maxLength: 200 }),
      fc.constantFrom(512, 4096, 16384, 65536),
      (lengths, blockSize) => {
        const start = 2 ** 40;
        const least = lengths.map((n) => (n % blockSize) + 5);
        const total = least.reduce((a, b) => a + b, 0);
        const builder = new JumpTableBuilder({
          source: 'test',
          blocks: least.length,
          blockSize,
          codec: Codec.LZ4,
          verify: true,
          start,
          indexOffset: start + total,
        });
        const bytes = Buffer.alloc(4 * least.length);
        least.forEach((n, i) => bytes.writeUInt32LE(n, 4 * i));
        const cut = 4 * Math.floor(least.length / 3);
        builder.add(bytes.subarray(0, cut));
        builder.add(bytes.subarray(cut));
        const table = new JumpTable(structuredClone(builder.finish().description));
        let at = start;
        for (const [i, n] of least.entries()) {
          assert.equal(table.offset(i), at);
          at += n;
        }
        assert.equal(table.offset(least.length), at);
      },
    ),
  );
});

test('JumpTable holds 10 million blocks that do not compress in 25 MB', () => {
  const blocks = 10_000_000;
  const builder = new JumpTableBuilder({
    source: 'test',
    blocks,
    blockSize: 4096,
    codec: Codec.LZ4,
    verify: true,
    start: 512,
    indexOffset: 512 + blocks * 4118,
  });
  const piece = Buffer.alloc(4_000_000);
  for (let i = 0; i < piece.length; i += 4) piece.writeUInt32LE(4118, i);
  for (let i = 0; i < 10; i++) builder.add(piece);
  const table = builder.finish();
  assert.ok(table.description.buffer.byteLength <= 25_100_000);
  for (const block of [0, 15, 16, 9_999_999, blocks]) assert.equal(table.offset(block), 512 + block * 4118);
});

test('ZFilePlanner plans exactly what read() gives, and nothing if a byte is not local', async () => {
  const shift = 1536;
  const { bytes } = await zfile(sampleContent, { blockSize: 8192 });
  const stored = Buffer.concat([Buffer.alloc(shift), bytes]);
  const presence = new Uint8Array(new SharedArrayBuffer(Math.ceil(stored.length / 4096))).fill(1);
  class Local extends MemoryBlob {
    localFile(): LocalFile {
      return { fd: 77, shift: 0, size: this.size, unitSize: 4096, presence };
    }
  }
  const reader = await ZFileReader.open(new SliceBlob(new Local(stored), shift, bytes.length));
  const description = reader.describe();
  assert.ok(description);
  const planner = new ZFilePlanner(description);
  const plan = new ReadPlan(64);
  fc.assert(
    fc.property(fc.nat(sampleContent.length - 1), fc.nat(70_000), fc.nat(1000), (offset, n, destination) => {
      const length = Math.min(n, sampleContent.length - offset);
      plan.clear();
      assert.equal(planner.append(Math.floor(offset / 512), offset % 512, length, destination, plan), true);
      const out = Buffer.alloc(destination + length);
      for (let i = 0; i < plan.length; i++) {
        const [fd, at = 0, size = 0, codec = 0, plain = 0, skip = 0, take = 0, to = 0] = plan.words.subarray(
          i * PLAN_STRIDE,
          (i + 1) * PLAN_STRIDE,
        );
        assert.equal(fd, 77);
        assert.equal(codec, Codec.LZ4 + CRC_CHECKED);
        const block = Buffer.alloc(plain);
        assert.equal(decompress(Codec.LZ4, stored.subarray(at, at + size - 4), block), plain);
        out.set(block.subarray(skip, skip + take), to);
      }
      assert.ok(out.subarray(destination).equals(sampleContent.subarray(offset, offset + length)));
    }),
    { numRuns: 100 },
  );
  plan.clear();
  assert.equal(planner.append(0, 0, sampleContent.length, 0, new ReadPlan(3)), false);
  plan.addZeroes(512, 0);
  presence[4] = 0;
  assert.equal(planner.append(0, 0, 100_000, 512, plan), false);
  assert.equal(plan.length, 1);
  assert.equal(planner.append(390, 320, 4096, 512, plan), true);
});
