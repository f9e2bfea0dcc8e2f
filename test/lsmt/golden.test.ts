import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { FileBlob } from '../../src/blob/index.js';
import {
  LayerStack,
  openSealedLayer,
  SegmentList,
  HOLE,
  ZEROED,
  type SealedLayer,
} from '../../src/lsmt/index.js';
import { tarPayload } from '../../src/tar/index.js';
import { isZFile, ZFileReader } from '../../src/zfile/index.js';
import type { DeviceDump } from '../support/device-dump.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { unpackFixture } from '../support/unpack.js';

interface Mapping {
  readonly virtualSize: number;
  readonly layers: readonly {
    readonly file: string;
    readonly virtualSize: number;
    readonly entriesOnDisk: number;
    readonly paddingEntries: number;
  }[];
  readonly map: readonly (readonly [number, number, number, number | 'zero'])[];
}

function json(...path: string[]): unknown {
  return JSON.parse(readFileSync(join(...path), 'utf8'));
}

/** The stack's merged mapping in the form of mapping.json: maximal runs, layer 0 at the bottom. */
function mappingOf(stack: LayerStack): [number, number, number, number | 'zero'][] {
  const out: [number, number, number, number | 'zero'][] = [];
  const { words, count } = stack.index.segments();
  const list = new SegmentList();
  assert.ok(words.length >= count * 4);
  stack.index.lookup(0, stack.index.end, list);
  for (let i = 0; i < list.length; i++) {
    const [lba = 0, sectors = 0, moffset = 0, tag = 0] = [
      list.lba[i],
      list.sectors[i],
      list.moffset[i],
      list.tag[i],
    ];
    if (tag === HOLE) continue;
    // A zeroed piece does not say whose it is; find it among the layers, topmost first.
    const layer =
      tag === ZEROED
        ? stack.layers.findLastIndex((l) => {
            const one = new SegmentList();
            l.index.lookup(lba, 1, one);
            return one.tag[0] !== HOLE;
          })
        : stack.layers.length - 1 - tag;
    const last = out.at(-1);
    const where = tag === ZEROED ? 'zero' : moffset;
    if (
      last?.[2] === layer &&
      last[0] + last[1] === lba &&
      (where === 'zero' ? last[3] === 'zero' : last[3] !== 'zero' && last[3] + last[1] === where)
    )
      last[1] += sectors;
    else out.push([lba, sectors, layer, where]);
  }
  return out;
}

async function checkDevice(stack: LayerStack, dump: DeviceDump): Promise<void> {
  assert.equal(stack.size, dump.virtualSize);
  const expected = new Map(dump.chunks.map(({ index, sha256 }) => [index, sha256]));
  const buffer = new Uint8Array(dump.chunkSize);
  const touched = new Set<number>();
  for (const { offset, length, data } of stack.extents(0, stack.size))
    if (data)
      for (let c = Math.floor(offset / dump.chunkSize); c * dump.chunkSize < offset + length; c++)
        touched.add(c);
  for (const index of expected.keys()) assert.ok(touched.has(index), `chunk ${index} is not allocated`);
  for (const index of touched) {
    const bytes = buffer.subarray(0, Math.min(dump.chunkSize, stack.size - index * dump.chunkSize));
    await stack.read(index * dump.chunkSize, bytes);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    if (expected.has(index)) assert.equal(sha256, expected.get(index), `chunk ${index}`);
    else
      assert.ok(
        bytes.every((byte) => byte === 0),
        `chunk ${index} should read as zeroes`,
      );
  }
}

/** Opens a layer in whatever wrapping it has. */
async function openLayer(path: string): Promise<SealedLayer> {
  const blob = await tarPayload(await FileBlob.open(path));
  const start = new Uint8Array(512);
  await blob.read(0, start);
  return openSealedLayer(isZFile(start) ? await ZFileReader.open(blob) : blob);
}

async function openStack(dir: string, files: readonly string[]): Promise<LayerStack> {
  return new LayerStack(await Promise.all(files.map((file) => openLayer(join(dir, file)))));
}

for (const set of ['k2', 'k8', 'k33', 'k33-zstd'])
  test(`LayerStack maps and reads ${set} as the reference does`, { skip: noFixtures }, async (t) => {
    const dir = unpackFixture(t, 'lsmt', set);
    const mapping = json(dir, 'mapping.json') as Mapping;
    const stack = await openStack(
      dir,
      mapping.layers.map((layer) => layer.file),
    );
    t.after(() => stack.close());
    for (const [i, layer] of stack.layers.entries()) {
      const info = (layer as SealedLayer).info;
      assert.equal(info.virtualSize, mapping.layers[i]?.virtualSize);
      assert.equal(info.indexCount, mapping.layers[i]?.entriesOnDisk);
      assert.equal(info.paddingEntries, mapping.layers[i]?.paddingEntries);
    }
    assert.deepEqual(mappingOf(stack), mapping.map);
    await checkDevice(stack, json(dir, 'device.json') as DeviceDump);
  });

for (const set of ['raw-lsmt', 'sealed', 'merged-raw', 'sealed-sparse'])
  test(`openSealedLayer() opens every raw layer of ${set}`, { skip: noFixtures }, async (t) => {
    const dir = unpackFixture(t, 'small', set);
    const image = json(dir, 'image.json') as { lowers: { file: string }[] };
    let opened = 0;
    for (const { file } of image.lowers) {
      const name = file.replace('@DIR@/', '');
      if (!/\.(lsmt|sealed)$/.test(name)) continue;
      const layer = await openSealedLayer(await FileBlob.open(join(dir, name)));
      t.after(() => layer.close());
      opened++;
      assert.ok(layer.index.length > 0);
      assert.equal(layer.info.trailer.flags, set === 'sealed-sparse' ? 0x16 : 6);
    }
    assert.ok(opened > 0);
  });

/** What the message must name, per damaged file. */
const BAD: Readonly<Record<string, RegExp>> = {
  'lsmt-header-magic.lsmt': /header magic is .*, expected 4c534d54/,
  'lsmt-header-type.lsmt': /header flags 0x5: data file bit is 0, expected 1/,
  'lsmt-trailer-magic.lsmt': /trailer magic is .* \(at byte 52736\)/,
  'lsmt-trailer-unsealed.lsmt': /trailer flags 0x2: sealed bit is 0/,
  'lsmt-trailer-isheader.lsmt': /trailer flags 0x7: header bit is 1, expected 0/,
  'lsmt-index-order.lsmt': /overlaps the entry before it or is out of order/,
  'lsmt-index-overlap.lsmt': /index entry 5 overlaps the entry before it/,
  'lsmt-index-beyond-data.lsmt': /index entry 5 moffset points beyond the data area/,
  'lsmt-index-crosses-end.lsmt': /index entry 17 moffset points beyond the data area: is 96, expected .* 95/,
  'lsmt-index-into-header.lsmt': /index entry 0 moffset points into the header: is 7/,
  'lsmt-zeroed-moffset0.lsmt': /index entry 7 zeroed, with moffset points into the header: is 0/,
  'lsmt-index-zero-length.lsmt': /index entry 1 has zero length/,
  'lsmt-index-count-huge.lsmt': /index count is 1000001, at most 1000000/,
  'lsmt-index-count-plus1.lsmt': /index count is \d+, but only \d+ entries fit/,
  'lsmt-index-offset-wrap.lsmt': /index offset is 18446744073709547520, expected .*outside the file/,
  'lsmt-index-offset-past.lsmt': /index offset is 60928, expected .*outside the file/,
  'lsmt-truncated-trailer.lsmt': /trailer magic/,
  'lsmt-truncated-1.lsmt': /trailer is missing: file size 56831/,
  'lsmt-truncated-4000.lsmt': /4000 bytes, too short for a header/,
  empty: /0 bytes, too short for a header/,
  'lsmt-extra-512.lsmt': /trailer magic/,
};

for (const [file, pattern] of Object.entries(BAD))
  test(`openSealedLayer() refuses ${file}`, { skip: noFixtures }, async (t) => {
    const blob = await FileBlob.open(fixture('small', 'bad', file));
    t.after(() => blob.close());
    await assert.rejects(openSealedLayer(blob), (error: Error & { code?: string }) => {
      assert.match(error.message, pattern);
      assert.ok(error.message.includes(blob.name));
      assert.match(error.code ?? '', /^OBD_FORMAT_/);
      return true;
    });
  });
