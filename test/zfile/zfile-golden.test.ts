import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { FileBlob, MemoryBlob, type ReadableBlob } from '../../src/blob/index.js';
import { Codec, zstdVersion } from '../../src/native/index.js';
import { tarPayload, tarWrapperHead, tarWrapperTail } from '../../src/tar/index.js';
import { parseZFileEnd, ZFileReader } from '../../src/zfile/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { zstdIsTheReferences } from '../support/golden-images.js';
import { committedLayer, NULL_UUID, readAll, zfile } from './support.js';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

test('ZFileWriter writes vector V2 of formats.md section 11', async () => {
  const v1 = committedLayer(NULL_UUID, Buffer.alloc(0), []);
  assert.equal(sha256(v1), '17edbeb74ee12e4453b907364dadfd2087a47fe8a9c3a10fc265b5de308b58a6');
  const { bytes, summary } = await zfile(v1);
  assert.equal(bytes.length, 1244);
  assert.equal(summary.storedSize, 1244);
  assert.equal(bytes.readUInt32LE(28), 0x34ed10f6);
  assert.equal(bytes.readUInt32LE(1244 - 512 + 28), 0xc42dc5d2);
  const header = parseZFileEnd(bytes.subarray(0, 512), 'header', 'v2', 0);
  assert.equal(header.flags, 0x1b);
  assert.equal(header.indexOffset, 0x2d4);
  assert.equal(header.indexCrc, 0xc1f9186e);
  assert.equal(sha256(bytes), '15d17469cc0829fb2fe33eecbc972f849a601691219f961bce84662fe2fb2c01');
  const initial = await zfile(v1, { finalHeader: false });
  assert.equal(sha256(initial.bytes), '303c12159102315c4365f52954c602d4f16ca93c953a5c9bdb597ac69f3c22bc');
});

test('ZFileWriter writes vector V3 of formats.md section 11, however it is fed', async () => {
  const entry = (offset: number, length: number, moffset: number, zeroed = 0n): [bigint, bigint] => [
    BigInt(offset) | (BigInt(length) << 50n),
    BigInt(moffset) | (zeroed << 55n),
  ];
  const data = Buffer.concat([
    Buffer.alloc(8192, 'A'),
    Buffer.alloc(4096, 'B'),
    Buffer.alloc(65536 - 12288, 'A'),
    Buffer.alloc(6144 * 512, 'C'),
    Buffer.alloc(512, 'D'),
  ]);
  const v3 = committedLayer('AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE', data, [
    entry(0, 128, 8),
    entry(2048, 6144, 136),
    entry(8192, 16383, 6280, 1n),
    entry(24575, 16383, 6280, 1n),
    entry(40958, 8194, 6280, 1n),
    entry(2097151, 1, 6280),
  ]);
  assert.equal(sha256(v3), '2f66bdac189825c2c0bf62b85dce740f35400c4b80174a453dd3a2f3b70b1821');
  for (const step of [4096, 100_001, v3.length]) {
    const { bytes, summary } = await zfile(v3, { step });
    assert.equal(bytes.length, 28082);
    assert.equal(summary.blocks, 788);
    assert.equal(sha256(bytes), '742124c36e87c43a6fce2e203a3197999b12b33a997f6b2529d5907a8145b881');
  }
});

test('ZFileWriter writes the reference files again', { skip: noFixtures }, async (t) => {
  for (const [name, finalHeader] of [
    ['small/native-lz4/layer1.tar', true],
    ['small/native-lz4/layer2.tar', true],
    ['small/native-lz4-bs8/layer1.tar', true],
    ['small/native-lz4-bs16/layer1.tar', true],
    ['small/native-lz4-bs32/layer1.tar', true],
    ['small/native-zstd/layer1.tar', true],
    ['small/native-zstd/layer3.tar', true],
  ] as const) {
    const golden = readFileSync(fixture(name));
    const reader = await ZFileReader.open(await tarPayload(new MemoryBlob(golden, name)));
    const plain = await readAll(reader);
    const { blockSize, codec } = reader.end;
    const { bytes } = await zfile(plain, { blockSize, codec, finalHeader });
    if (codec === Codec.ZSTD && !zstdIsTheReferences) {
      t.diagnostic(`${name}: only unpacked bytes compared, zstd is ${zstdVersion}`);
      const again = await ZFileReader.open(new MemoryBlob(bytes, name));
      assert.ok((await readAll(again)).equals(plain), name);
      continue;
    }
    const wrapped = Buffer.concat([tarWrapperHead(bytes.length), bytes, tarWrapperTail(bytes.length)]);
    assert.ok(wrapped.equals(golden), name);
  }
});

test(
  'ZFileReader reads files whose header never got final numbers, and legacy ones with noise',
  { skip: noFixtures },
  async () => {
    const bare = await ZFileReader.open(await FileBlob.open(fixture('small/bad/good-trailer.zf')));
    const good = await ZFileReader.open(await FileBlob.open(fixture('small/bad/good.zf')));
    assert.ok((await readAll(bare)).equals(await readAll(good)));
    await bare.close();
    await good.close();
    const base = fixture(
      'debian/oci-obd/blobs/sha256/a8b5fca80efae55088290f3da8110d7742de55c2a378d5ab53226a483f390e21',
    );
    const legacy = await ZFileReader.open(await tarPayload(await FileBlob.open(base)));
    assert.equal(legacy.end.legacy, true);
    assert.equal(legacy.size, 0x204d5000);
    const start = Buffer.alloc(4096);
    await legacy.read(0, start);
    assert.equal(start.toString('latin1', 0, 4), 'LSMT');
    await legacy.close();
  },
);

/** From bad.json: what is refused when it is opened, in our words. */
const REFUSED: Record<string, [code: string, message: RegExp]> = {
  empty: ['OBD_FORMAT_TRUNCATED', /too short/],
  'zf-magic.zf': ['OBD_FORMAT_BAD_MAGIC', /magic/],
  'zf-header-digest.zf': ['OBD_FORMAT_CHECKSUM', /header digest/],
  'zf-header-index-offset.zf': ['OBD_FORMAT_CHECKSUM', /header digest/],
  'zf-trailer-digest.zf': ['OBD_FORMAT_CHECKSUM', /trailer digest/],
  'zf-trailer-magic.zf': ['OBD_FORMAT_BAD_TRAILER', /trailer magic/],
  'zf-trailer-isheader.zf': ['OBD_FORMAT_BAD_TRAILER', /trailer flags/],
  'zf-index-crc.zf': ['OBD_FORMAT_CHECKSUM', /crc of the jump table/],
  'zf-jump-overflow.zf': ['OBD_FORMAT_BAD_INDEX', /stored length of block 3/],
  'zf-jump-overflow-sum.zf': ['OBD_FORMAT_BAD_INDEX', /stored length of block 3/],
  'zf-jump-tiny.zf': ['OBD_FORMAT_BAD_INDEX', /stored length of block 4 is 3, expected 5/],
  'zf-count-small.zf': ['OBD_FORMAT_BAD_INDEX', /jump table has \d+ entries, expected \d+/],
  'zf-orig-large.zf': ['OBD_FORMAT_BAD_INDEX', /jump table has \d+ entries, expected \d+/],
  'zf-block-size-0.zf': ['OBD_FORMAT_BAD_HEADER', /block size is 0/],
  'zf-block-size-128k.zf': ['OBD_FORMAT_BAD_HEADER', /block size is 131072/],
  'zf-block-size-5000.zf': ['OBD_FORMAT_BAD_HEADER', /block size is 5000/],
  'zf-algo-7.zf': ['OBD_FORMAT_UNSUPPORTED', /compression algorithm is 7/],
  'zf-index-offset-past.zf': ['OBD_FORMAT_BAD_INDEX', /jump table .* do not fit the file/],
  'zf-truncated-600.zf': ['OBD_FORMAT_BAD_TRAILER', /trailer magic/],
  'zf-truncated-half.zf': ['OBD_FORMAT_BAD_INDEX', /do not fit the file/],
  'zf-truncated-300.zf': ['OBD_FORMAT_TRUNCATED', /too short/],
  'tar-size-under.tar': ['OBD_FORMAT_BAD_INDEX', /do not fit the file/],
};

for (const [name, [code, message]] of Object.entries(REFUSED))
  test(`ZFileReader.open() refuses ${name}`, { skip: noFixtures }, async () => {
    const file = await FileBlob.open(fixture('small/bad', name));
    await assert.rejects(async () => ZFileReader.open(await tarPayload(file)), { code, message });
    await file.close();
  });

const UNREADABLE: Record<string, [blocks: number[], good: string, code: string, message: RegExp]> = {
  'zf-block-crc.zf': [[6], 'good.zf', 'OBD_FORMAT_CHECKSUM', /crc error in block 6/],
  'zf-block-crcfield.zf': [[6], 'good.zf', 'OBD_FORMAT_CHECKSUM', /crc error in block 6/],
  'zf-jump-shifted.zf': [[6, 7], 'good.zf', 'OBD_FORMAT_CHECKSUM', /crc error in block [67]/],
  'zf-lz4-garbage.zf': [[6], 'good.zf', 'OBD_FORMAT_CORRUPT_BLOCK', /block 6 does not decompress/],
  'zf-lz4-short.zf': [
    [6],
    'good.zf',
    'OBD_FORMAT_CORRUPT_BLOCK',
    /block 6 has 1000 plain bytes, expected 4096/,
  ],
  'zf-lz4-long.zf': [[6], 'good.zf', 'OBD_FORMAT_CORRUPT_BLOCK', /block 6 does not decompress into 4096/],
  'zstd-magic.tar': [[6], 'good-zstd.tar', 'OBD_FORMAT_CORRUPT_BLOCK', /block 6 does not decompress/],
  'zstd-short.tar': [[6], 'good-zstd.tar', 'OBD_FORMAT_CORRUPT_BLOCK', /block 6 has 1000 plain bytes/],
};

for (const [name, [blocks, goodName, code, message]] of Object.entries(UNREADABLE))
  test(
    `ZFileReader.read() loses only blocks ${blocks.join(', ')} of ${name}`,
    { skip: noFixtures },
    async () => {
      const open = async (file: string): Promise<ZFileReader> =>
        ZFileReader.open(await tarPayload(await FileBlob.open(fixture('small/bad', file))));
      const bad = await open(name);
      const good = await open(goodName);
      for (let block = 0; block * 4096 < good.size; block++) {
        const into = Buffer.alloc(Math.min(4096, good.size - block * 4096));
        const expected = Buffer.from(into);
        await good.read(block * 4096, expected);
        const read = bad.read(block * 4096, into);
        if (blocks.includes(block)) await assert.rejects(read, { code, message });
        else {
          await read;
          assert.ok(into.equals(expected), `block ${block}`);
        }
      }
      await assert.rejects(readAll(bad), { code, message });
      await bad.close();
      await good.close();
    },
  );

test(
  'ZFileReader reads every block size and codec of the reference alike',
  { skip: noFixtures },
  async () => {
    const open = async (name: string): Promise<ReadableBlob> =>
      ZFileReader.open(await tarPayload(await FileBlob.open(fixture(name))));
    const first = await open('small/native-lz4/layer1.tar');
    const expected = sha256(await readAll(first));
    await first.close();
    for (const name of ['native-lz4-bs8', 'native-lz4-bs16', 'native-lz4-bs32', 'native-zstd']) {
      const blob = await open(`small/${name}/layer1.tar`);
      assert.equal(sha256(await readAll(blob)), expected, name);
      await blob.close();
    }
    assert.equal(Codec.ZSTD, 2);
  },
);
