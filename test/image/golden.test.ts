import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { silentLogger } from '../../src/log/index.js';
import { openImage } from '../../src/image/index.js';
import { readDeviceDump } from '../support/device-dump.js';
import { noFixtures } from '../support/fixtures.js';
import { goldenConfig, goldenSets, unpackedFixtures, wrongChunks } from '../support/golden-images.js';

const options = { log: silentLogger, mode: 'read' } as const;

if (noFixtures) test('Golden images', { skip: noFixtures });
else
  for (const { image, device } of goldenSets())
    test(`openImage() shows ${image} as the reference does`, async () => {
      const root = unpackedFixtures();
      const dump = readDeviceDump(join(root, device));
      const opened = await openImage(goldenConfig(join(root, image)), options);
      try {
        assert.equal(opened.virtualSize, dump.virtualSize);
        assert.equal(opened.readOnly, true);
        assert.deepEqual(await wrongChunks(opened.blob, dump), []);
      } finally {
        await opened.close();
      }
    });

/** An item of bad.json. */
interface BadItem {
  readonly file: string;
  readonly from: string;
  readonly stage: string;
  readonly must: string;
  readonly image: unknown;
  readonly unreadableSectors?: readonly (readonly [lba: number, count: number])[];
}

/** What an error must say, in the words of our messages, for each `must` of bad.json. */
const SAYS: Record<string, RegExp> = {
  'not an overlaybd layer: header magic': /neither ZFile nor LSMT/,
  'header does not describe a data file': /header flags|data file/,
  'trailer magic': /trailer magic/,
  'layer is not sealed': /sealed/,
  'trailer carries the header bit': /trailer flags|trailer .*header/,
  'index out of order': /out of order/,
  'index entries overlap': /overlap/,
  'index entry points beyond the data area': /beyond the data area/,
  'index entry points into the header': /into the header/,
  'zeroed entry with moffset outside 8..index_offset/512': /zeroed, with moffset/,
  'zero-length index entry': /zero length/,
  'too many index entries / index does not fit the file; no allocation of that size': /entries/,
  'index does not fit before the trailer': /index/,
  'index offset outside the file': /index offset|index/,
  'trailer missing': /trailer|do not fit/,
  'trailer missing / odd file size': /trailer|size/,
  'file too short for a header': /too short|size/,
  'file too short': /too short|file has/,
  'neither ZFile nor LSMT': /neither ZFile nor LSMT/,
  'header digest mismatch': /header digest/,
  'trailer digest mismatch': /trailer digest/,
  'jump table crc mismatch': /crc of the jump table/,
  'crc error in block 6': /crc error in block 6/,
  'crc error in blocks 6 and 7': /crc error in block [67]/,
  'jump table points outside the file': /stored length of block/,
  'jump table does not end at index_offset / entry larger than a block can be': /stored length of block/,
  'jump table entry not larger than the crc': /stored length of block 4 is 3/,
  'index_size does not match original_file_size / block_size': /jump table has \d+ entries/,
  'block_size not allowed': /block size/,
  'unknown compression algorithm': /compression algorithm/,
  'jump table outside the file': /jump table .* do not fit|trailer magic/,
  'block 6 does not decompress': /block 6 does not decompress/,
  'block 6 has the wrong length': /block 6 has 1000 plain bytes/,
  'block 6 has the wrong length / does not decompress into block_size': /block 6 does not decompress/,
  'payload longer than the file': /payload .* file has/,
  'payload size does not match the ZFile inside': /do not fit the file|trailer magic/,
  'no payload': /no payload/,
  'unknown blob (not a valid tar wrap)': /tar header .* checksum/,
  'index file magic': /magic/,
  'gzip index header crc': /gzip index .* crc/,
  'gzip index magic': /gzip index .* magic/,
  'gzip index size': /gzip index .* file size/,
  'target size differs from the index / read error; never zeros': /gzip file size/,
  'target shorter than the mappings: error on read; never zeros': /are mapped, but it ends/,
};

/** Damaged logs: refused, or recovered to the good pair; either way nothing else. */
const RECOVERED = /^refuse/;

if (!noFixtures) {
  const { items } = JSON.parse(readFileSync(join(unpackedFixtures(), 'small/bad/bad.json'), 'utf8')) as {
    items: BadItem[];
  };
  const dir = join(unpackedFixtures(), 'small/bad');
  const byFile = new Map(items.map((item) => [item.file, item]));
  assert.equal(byFile.size, 75);
  for (const item of items.filter(({ stage }) => stage !== 'convert'))
    test(`openImage() on ${item.file} says: ${item.must}`, async () => {
      const config = goldenConfig(join(dir, 'x'), item.image);
      const turbo = item.file.startsWith('turbo-');
      const dump = readDeviceDump(join(dir, turbo ? 'device-turbo.json' : 'device-layer.json'));
      if (RECOVERED.test(item.must)) {
        await checkRecovery(item, config, dump);
        return;
      }
      const says = SAYS[item.must];
      assert.ok(says, `no words for: ${item.must}`);
      if (item.stage === 'open') {
        const error: unknown = await openImage(config, options).then(
          async (image) => {
            await image.close();
            return undefined;
          },
          (e: unknown) => e,
        );
        assert.ok(error instanceof Error, 'it was opened');
        assert.match(error.message, says);
        assert.match(error.message, /layer|upper/);
        assert.match(error.message, new RegExp(item.file.replaceAll('.', '\\.')));
        return;
      }
      await checkReads(item, config, dump, says);
    });
}

async function checkRecovery(
  item: BadItem,
  config: Parameters<typeof openImage>[0],
  dump: ReturnType<typeof readDeviceDump>,
): Promise<void> {
  let image;
  try {
    image = await openImage(config, options);
  } catch (error) {
    assert.match((error as { code?: string }).code ?? '', /^OBD_FORMAT_/);
    return;
  }
  try {
    assert.ok(image.upper && 'recovery' in image.upper && image.upper.recovery, 'opened without a word');
    const wrong = await wrongChunks(image.blob, dump);
    if (item.file === 'rw-data-short.data') assert.ok(wrong.length <= 1);
    else assert.deepEqual(wrong, []);
  } finally {
    await image.close();
  }
}

async function checkReads(
  item: BadItem,
  config: Parameters<typeof openImage>[0],
  dump: ReturnType<typeof readDeviceDump>,
  says: RegExp,
): Promise<void> {
  let image;
  try {
    image = await openImage(config, options);
  } catch (error) {
    assert.match(item.stage, /open/);
    assert.match((error as Error).message, says);
    return;
  }
  try {
    const lost = new Set<number>();
    for (const [lba, count] of item.unreadableSectors ?? [])
      for (let i = 0; i < count; i++) lost.add(lba + i);
    assert.equal(image.virtualSize, dump.virtualSize);
    const goodImage = { lowers: [{ file: join(unpackedFixtures(), 'small/bad/good.zf') }] };
    const good = item.file.startsWith('turbo-')
      ? undefined
      : await openImage(goldenConfig(join(unpackedFixtures(), 'small/bad/x'), goodImage), options);
    const expected = new Map(dump.chunks.map(({ index }) => [index, true]));
    let failures = 0;
    for (const index of expected.keys()) {
      const start = index * dump.chunkSize;
      for (let at = start; at < Math.min(start + dump.chunkSize, image.virtualSize); at += 512) {
        const sector = new Uint8Array(512);
        const read = image.blob.read(at, sector);
        if (lost.has(at / 512)) {
          await assert.rejects(read, { message: says });
          failures++;
        } else if (good === undefined) {
          // The TurboOCI items have no list: a sector is right or an error.
          await read.catch((error: unknown) => {
            failures++;
            assert.match((error as Error).message, says);
          });
        } else {
          await read;
          const right = new Uint8Array(512);
          await good.blob.read(at, right);
          assert.ok(Buffer.from(sector).equals(right), `sector ${at / 512}`);
        }
      }
    }
    if (item.unreadableSectors) assert.equal(failures, lost.size);
    else assert.ok(failures > 0, 'nothing was reported');
    await good?.close();
  } finally {
    await image.close();
  }
}
