import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  copyFileSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { FileBlob, roundUp, SECTOR } from '../../src/blob/index.js';
import { ZFileWriter } from '../../src/zfile/index.js';
import {
  AppendLayer,
  commitLayer,
  LayerStack,
  openSealedLayer,
  openWritableLayer,
  ScratchLayer,
  SparseLayer,
  WritableLayerStack,
  type Layer,
  type WritableLayer,
} from '../../src/lsmt/index.js';
import { writableBlobSuite, type WritableSubject } from '../conformance/writable-blob.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { memoryLayer } from '../support/layers.js';
import { tempDir, unpackFixture } from '../support/unpack.js';

const SECTORS = 300;
const SIZE = SECTORS * SECTOR;

/** Lowers with data, zeroes and holes, and what they read as. */
async function lowers(): Promise<{ layers: Layer[]; content: Uint8Array }> {
  const content = new Uint8Array(SIZE);
  content.fill(0x11, 0, 100 * SECTOR);
  content.fill(0x22, 50 * SECTOR, 53 * SECTOR);
  content.fill(0, 60 * SECTOR, 75 * SECTOR);
  content.fill(0x33, 203 * SECTOR, 250 * SECTOR);
  const layers = [
    await memoryLayer([{ start: 0, length: 100, fill: 0x11 }], SIZE),
    await memoryLayer(
      [
        { start: 50, length: 3, fill: 0x22 },
        { start: 60, length: 15, fill: 0 },
        { start: 203, length: 47, fill: 0x33 },
      ],
      SIZE,
    ),
  ];
  return { layers, content };
}

function subjectOf(
  make: (t: TestContext) => { create: () => Promise<WritableLayer>; open?: () => Promise<WritableLayer> },
  over: () => Promise<{ layers: Layer[]; content: Uint8Array }>,
) {
  return async (t: TestContext): Promise<WritableSubject> => {
    const { create, open } = make(t);
    const stack = async (layer: WritableLayer): Promise<WritableSubject> => {
      const { layers, content } = await over();
      const blob = await WritableLayerStack.open(layers, layer);
      if (open === undefined) return { blob, content };
      const reopen = async (): Promise<WritableSubject> => {
        await blob.close();
        return stack(await open());
      };
      return { blob, content, reopen };
    };
    return stack(await create());
  };
}

const none = async (): Promise<{ layers: Layer[]; content: Uint8Array }> => ({
  layers: [],
  content: new Uint8Array(SIZE),
});

let files = 0;
const kinds = {
  'A scratch layer': (t: TestContext) => ({
    create: () => ScratchLayer.create({ virtualSize: SIZE, dir: tempDir(t) }),
  }),
  'An append layer': (t: TestContext) => {
    const base = join(tempDir(t), `w${files++}`);
    const paths = { data: `${base}.data`, index: `${base}.index` };
    return {
      create: () => AppendLayer.create(paths, { virtualSize: SIZE }),
      open: async () => {
        const layer = await AppendLayer.open(paths, { strict: true });
        assert.equal(layer.recovery, undefined);
        return layer;
      },
    };
  },
  'A sparse layer': (t: TestContext) => {
    const path = join(tempDir(t), `w${files++}.data`);
    return {
      create: () => SparseLayer.create(path, { virtualSize: SIZE }),
      open: () => openWritableLayer({ data: path }),
    };
  },
};

for (const [name, make] of Object.entries(kinds)) {
  writableBlobSuite(`${name} alone`, subjectOf(make, none));
  writableBlobSuite(`${name} over two layers`, subjectOf(make, lowers));
}

test('An upper without a virtual size takes that of the layers below and keeps it', async (t) => {
  const dir = tempDir(t);
  const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
  const { layers } = await lowers();
  const stack = await WritableLayerStack.open(layers, await AppendLayer.create(paths, { virtualSize: 0 }));
  assert.equal(stack.size, SIZE);
  await stack.close();
  const again = await openWritableLayer(paths);
  assert.equal(again.info.virtualSize, SIZE);
  await again.close();
});

test('A layer opened for reading adopts a size in memory and leaves its files as they are', async (t) => {
  for (const sparse of [false, true]) {
    const dir = tempDir(t);
    const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
    const made = sparse
      ? await SparseLayer.create(paths.data, { virtualSize: 0 })
      : await AppendLayer.create(paths, { virtualSize: 0 });
    await made.close();
    const before = readFileSync(paths.data);
    const { layers, content } = await lowers();
    const stack = await WritableLayerStack.open(layers, await openWritableLayer(paths, { mode: 'read' }));
    const out = new Uint8Array(SIZE);
    await stack.read(0, out);
    assert.ok(Buffer.from(out).equals(content));
    await assert.rejects(stack.write(0, new Uint8Array(SECTOR)), { code: 'OBD_DEVICE_READ_ONLY' });
    await stack.close();
    assert.ok(readFileSync(paths.data).equals(before));
  }
});

test('Sealing in place and committing give layers that read as the writable one did', async (t) => {
  for (const sparse of [false, true]) {
    const dir = tempDir(t);
    const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
    const options = { virtualSize: SIZE, uuid: '01234567-89ab-4def-8123-456789abcdef' };
    const layer = sparse
      ? await SparseLayer.create(paths.data, options)
      : await AppendLayer.create(paths, options);
    const { layers } = await lowers();
    const disk = await WritableLayerStack.open(layers, layer);
    await disk.write(5 * SECTOR, new Uint8Array(20 * SECTOR).fill(0x44));
    await disk.write(7 * SECTOR, new Uint8Array(SECTOR).fill(0x55));
    await disk.discard(10 * SECTOR, 30 * SECTOR);
    await disk.discard(205 * SECTOR, 3 * SECTOR);
    const want = new Uint8Array(SIZE);
    await disk.read(0, want);
    const parts: Uint8Array[] = [];
    await commitLayer(layer, { write: async (bytes) => void parts.push(bytes.slice()) });
    writeFileSync(join(dir, 'committed'), Buffer.concat(parts));
    await layer.seal();
    await assert.rejects(layer.store(0, new Uint8Array(SECTOR)), /after it was sealed/);
    await disk.close();
    for (const file of ['committed', 'data']) {
      const top = await openSealedLayer(await FileBlob.open(join(dir, file)));
      if (file === 'data') {
        assert.equal(top.info.trailer.flags, sparse ? 0x16 : 6);
        assert.equal(top.info.uuid, '01234567-89AB-4DEF-8123-456789ABCDEF');
      } else assert.equal(top.info.uuid, null);
      const stack = new LayerStack([...(await lowers()).layers, top]);
      const got = new Uint8Array(SIZE);
      await stack.read(0, got);
      assert.ok(Buffer.from(got).equals(want), `${file}, sparse ${sparse}`);
      await stack.close();
    }
    await assert.rejects(openWritableLayer(paths), /sealed bit is 1, expected 0/);
  }
});

test('A writable layer is opened by one writer at a time', async (t) => {
  const dir = tempDir(t);
  const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
  const layer = await AppendLayer.create(paths, { virtualSize: SIZE });
  await assert.rejects(openWritableLayer(paths), /in use by another/);
  await layer.close();
  const readers = [
    await openWritableLayer(paths, { mode: 'read' }),
    await openWritableLayer(paths, { mode: 'read' }),
  ];
  for (const reader of readers) await reader.close();
});

test('Creating over existing files fails and leaves them alone', async (t) => {
  const dir = tempDir(t);
  const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
  writeFileSync(paths.index, 'mine');
  await assert.rejects(AppendLayer.create(paths, { virtualSize: SIZE }), { code: 'OBD_IO_EXISTS' });
  assert.equal(readFileSync(paths.index, 'utf8'), 'mine');
  assert.throws(() => statSync(paths.data), /ENOENT/);
});

test('A sparse upper keeps holes where lower layers hold nothing', async (t) => {
  const path = join(tempDir(t), 'data');
  const size = 64 << 20;
  const layer = await SparseLayer.create(path, { virtualSize: size });
  const disk = await WritableLayerStack.open([], layer);
  await disk.write(0, new Uint8Array(8 << 20).fill(1));
  await disk.flush();
  const before = statSync(path).blocks;
  await disk.discard(0, size);
  await disk.flush();
  assert.ok(statSync(path).blocks <= before - (8 << 20) / 512);
  assert.equal(layer.map.length, 0);
  await disk.close();
});

// Golden images.

async function openGolden(data: string, index: string, mode: 'read' | 'write' = 'read') {
  return openWritableLayer({ data, index }, { mode });
}

async function digestOfCommit(layer: WritableLayer): Promise<string> {
  const hash = createHash('sha256');
  await commitLayer(layer, { write: async (bytes) => void hash.update(bytes) });
  return hash.digest('hex');
}

function digestOfFile(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

test('commitLayer() of the golden append pair gives the reference layer', { skip: noFixtures }, async (t) => {
  const dir = unpackFixture(t, 'small', 'rw-append');
  const raw = unpackFixture(t, 'small', 'raw-lsmt');
  const { upper } = JSON.parse(readFileSync(join(dir, 'image.json'), 'utf8')) as {
    upper: { data: string; index: string };
  };
  const path = (name: string): string => name.replace('@DIR@', dir);
  const layer = await openGolden(path(upper.data), path(upper.index));
  t.after(() => layer.close());
  assert.equal(await digestOfCommit(layer), digestOfFile(join(raw, 'layer2.lsmt')));
});

test(
  'commitLayer() of the golden sealed layers gives the reference layers',
  { skip: noFixtures },
  async (t) => {
    const dir = unpackFixture(t, 'small', 'sealed');
    const raw = unpackFixture(t, 'small', 'raw-lsmt');
    for (const n of [1, 2, 3]) {
      const layer = await openSealedLayer(await FileBlob.open(join(dir, `layer${n}.sealed`)));
      const hash = createHash('sha256');
      const { header } = layer.info;
      const source = {
        name: layer.name,
        info: layer.info,
        files: layer.files,
        segments: () => layer.index.segments(),
      };
      await commitLayer(source, { write: async (bytes) => void hash.update(bytes) });
      await layer.close();
      assert.equal(header.flags, 3);
      assert.equal(hash.digest('hex'), digestOfFile(join(raw, `layer${n}.lsmt`)), `layer ${n}`);
    }
  },
);

test('A golden sparse upper opens over its layers', { skip: noFixtures }, async (t) => {
  const dir = unpackFixture(t, 'small', 'rw-sparse');
  const { upper } = JSON.parse(readFileSync(join(dir, 'image.json'), 'utf8')) as { upper: { data: string } };
  const layer = await openWritableLayer({ data: upper.data.replace('@DIR@', dir) }, { mode: 'read' });
  t.after(() => layer.close());
  assert.ok(layer instanceof SparseLayer);
  assert.ok(layer.map.length > 0);
  assert.ok(layer.info.virtualSize >= 2 ** 33);
  // The reference's own commit of this layer, LZ4 and in a tar, has 334,848 bytes.
  let stored = 0;
  const zfile = new ZFileWriter({ write: async (bytes) => void (stored += bytes.byteLength) });
  await commitLayer(layer, { write: (bytes) => zfile.write(bytes) });
  await zfile.finish();
  assert.equal(roundUp(1536 + stored, 512) + 1024, 334_848);
});

interface BadPair {
  readonly data: string;
  readonly index: string;
  readonly says: RegExp;
  readonly whole: boolean;
}

const BAD_PAIRS: readonly BadPair[] = [
  {
    data: 'good-rw.data',
    index: 'rw-index-beyond-data.index',
    says: /record 19 moffset points beyond the data area/,
    whole: true,
  },
  {
    data: 'good-rw.data',
    index: 'rw-index-torn.index',
    says: /record 19 is torn: the file size is 4409/,
    whole: true,
  },
  {
    data: 'good-rw.data',
    index: 'rw-index-zero-record.index',
    says: /record 19 has zero length/,
    whole: true,
  },
  {
    data: 'rw-data-short.data',
    index: 'good-rw.index',
    says: /moffset points beyond the data area/,
    whole: false,
  },
];

for (const { data, index, says, whole } of BAD_PAIRS)
  test(
    `A damaged log is said to be, and shows the state before: ${data}, ${index}`,
    { skip: noFixtures },
    async (t) => {
      const dir = tempDir(t);
      const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
      copyFileSync(fixture('small', 'bad', data), paths.data);
      copyFileSync(fixture('small', 'bad', index), paths.index);
      await assert.rejects(openWritableLayer(paths, { strict: true }), says);
      const good = await openGolden(
        fixture('small', 'bad', 'good-rw.data'),
        fixture('small', 'bad', 'good-rw.index'),
      );
      t.after(() => good.close());
      const layer = (await openWritableLayer(paths)) as AppendLayer;
      t.after(() => layer.close());
      assert.match(layer.recovery?.message ?? '', says);
      assert.ok(layer.recovery?.message.includes(paths.index));
      if (whole) assert.deepEqual(layer.segments(), good.segments());
      else assert.ok(layer.map.length < good.map.length);
      // Nothing was destroyed, and the next opening has nothing to complain about.
      assert.ok(
        readFileSync(layer.recovery?.savedAs ?? '').equals(readFileSync(fixture('small', 'bad', index))),
      );
      await layer.close();
      const again = (await openWritableLayer(paths)) as AppendLayer;
      assert.equal(again.recovery, undefined);
      assert.equal(again.map.length, layer.map.length);
      await again.close();
    },
  );

test('openWritableLayer() refuses an index file with a wrong magic', { skip: noFixtures }, async () => {
  await assert.rejects(
    openGolden(fixture('small', 'bad', 'good-rw.data'), fixture('small', 'bad', 'rw-index-magic.index')),
    /index header magic/,
  );
});

test('A log that ends in a half-written record takes new ones where the good ones end', async (t) => {
  const dir = tempDir(t);
  const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
  let disk = await WritableLayerStack.open([], await AppendLayer.create(paths, { virtualSize: SIZE }));
  await disk.write(0, new Uint8Array(SECTOR).fill(1));
  await disk.close();
  appendFileSync(paths.index, Buffer.alloc(9, 3));
  truncateSync(paths.data, statSync(paths.data).size + 100);
  disk = await WritableLayerStack.open([], await openWritableLayer(paths));
  await disk.write(SECTOR, new Uint8Array(SECTOR).fill(2));
  await disk.close();
  disk = await WritableLayerStack.open([], await openWritableLayer(paths, { strict: true }));
  const out = new Uint8Array(2 * SECTOR);
  await disk.read(0, out);
  assert.deepEqual([out[0], out[SECTOR]], [1, 2]);
  await disk.close();
});

test("Data that somebody else wrote becomes the layer's in one step, or is cut off again", async (t) => {
  const dir = tempDir(t);
  const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
  const { layers, content } = await lowers();
  const upper = await AppendLayer.create(paths, { virtualSize: SIZE });
  const disk = await WritableLayerStack.open(layers, upper);
  await disk.write(8 * SECTOR, new Uint8Array(SECTOR).fill(1));
  content.fill(1, 8 * SECTOR, 9 * SECTOR);
  const before = readFileSync(paths.data);
  const reads = async (): Promise<Uint8Array> => {
    const all = new Uint8Array(SIZE);
    await disk.read(0, all);
    return all;
  };

  const given = disk.place();
  assert.ok(given);
  writeSync(given.fd, new Uint8Array(20 * SECTOR).fill(7), 0, 20 * SECTOR, given.offset);
  await assert.rejects(disk.write(0, new Uint8Array(SECTOR)), /while data is placed in it/);
  await assert.rejects(upper.seal(), /data is placed in it/);
  await assert.rejects(upper.compact(), TypeError);
  assert.throws(() => disk.place(), TypeError);
  assert.deepEqual(await reads(), content);
  await given.abandon();
  assert.deepEqual(readFileSync(paths.data), before);
  assert.deepEqual(await reads(), content);

  const place = disk.place();
  assert.ok(place);
  const data = new Uint8Array(16 * SECTOR).fill(5, 0, 8 * SECTOR).fill(6, 8 * SECTOR);
  writeSync(place.fd, data, 0, data.byteLength, place.offset);
  const runs = [
    { offset: 0, length: 8 * SECTOR, position: 8 * SECTOR },
    { offset: 56 * SECTOR, length: 16 * SECTOR, position: undefined },
    { offset: 96 * SECTOR, length: 8 * SECTOR, position: 0 },
  ];
  await place.finish(runs, data.byteLength);
  await place.abandon();
  await disk.write(100 * SECTOR, new Uint8Array(SECTOR).fill(9));
  content.fill(6, 0, 8 * SECTOR);
  content.fill(0, 56 * SECTOR, 72 * SECTOR);
  content.fill(5, 96 * SECTOR, 104 * SECTOR);
  content.fill(9, 100 * SECTOR, 101 * SECTOR);
  assert.deepEqual(await reads(), content);
  await disk.flush();
  await disk.close();

  const again = await WritableLayerStack.open(
    (await lowers()).layers,
    await openWritableLayer(paths, { strict: true }),
  );
  const all = new Uint8Array(SIZE);
  await again.read(0, all);
  assert.deepEqual(all, content);
  await again.close();
  const sparse = await SparseLayer.create(join(dir, 'sparse'), { virtualSize: SIZE });
  const other = await WritableLayerStack.open([], sparse);
  assert.equal(other.place(), undefined);
  await other.close();
});
