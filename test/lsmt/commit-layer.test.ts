import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import test, { type TestContext } from 'node:test';
import { MemoryBlob } from '../../src/blob/index.js';
import {
  commitLayer,
  diskEntry,
  layerSource,
  layoutCommit,
  mergedSource,
  openSealedLayer,
  ScratchLayer,
  setSegment,
  wordsOf,
  WritableLayerStack,
  type CommitOptions,
  type CommitSource,
} from '../../src/lsmt/index.js';

/** Commits into memory. */
async function commit(source: CommitSource, options?: CommitOptions): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const result = await commitLayer(
    source,
    { write: async (bytes) => void parts.push(bytes.slice()) },
    options,
  );
  const all = new Uint8Array(Buffer.concat(parts));
  assert.equal(all.byteLength, result.size);
  return all;
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

async function scratch(t: TestContext, virtualSize: number): Promise<WritableLayerStack> {
  const stack = await WritableLayerStack.open([], await ScratchLayer.create({ virtualSize }));
  t.after(() => stack.close());
  return stack;
}

function filled(length: number, letter: string): Uint8Array {
  return new Uint8Array(length).fill(letter.charCodeAt(0));
}

const GIB = 2 ** 30;
const V3_UUID = 'AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE';

/** Golden vector V3 of formats.md section 11. */
async function v3(t: TestContext): Promise<Uint8Array> {
  const disk = await scratch(t, GIB);
  await disk.write(0, filled(65536, 'A'));
  await disk.write(8192, filled(4096, 'B'));
  await disk.write(2 ** 20, filled(8 << 20, 'C'));
  await disk.discard(4 << 20, 20 << 20);
  await disk.write(GIB - 512, filled(512, 'D'));
  return commit(disk.upper, { uuid: V3_UUID });
}

/** Golden vector V4. */
async function v4(t: TestContext): Promise<Uint8Array> {
  const disk = await scratch(t, GIB);
  await disk.write(4096, filled(65536, 'X'));
  await disk.write(200 << 20, filled(65536, 'X'));
  return commit(disk.upper, { parentUuid: V3_UUID.toLowerCase(), userTag: Buffer.from('hello') });
}

test('commitLayer() writes golden vector V1, an empty layer', async (t) => {
  const disk = await scratch(t, GIB);
  const bytes = await commit(disk.upper);
  assert.equal(sha256(bytes), '17edbeb74ee12e4453b907364dadfd2087a47fe8a9c3a10fc265b5de308b58a6');
});

test('commitLayer() writes golden vector V3', async (t) => {
  const bytes = await v3(t);
  assert.equal(bytes.byteLength, 3_224_064);
  assert.equal(sha256(bytes), '2f66bdac189825c2c0bf62b85dce740f35400c4b80174a453dd3a2f3b70b1821');
});

test('commitLayer() writes golden vector V4, with parent and user tag', async (t) => {
  assert.equal(sha256(await v4(t)), '7ae14578991767970ccc751032e1b5a0c41ab426a24146db588ba9065d7e42bc');
});

test('commitLayer() of merged layers writes the golden merge of V3 and V4', async (t) => {
  const layers = [
    await openSealedLayer(new MemoryBlob(await v3(t), 'v3')),
    await openSealedLayer(new MemoryBlob(await v4(t), 'v4')),
  ];
  const bytes = await commit(mergedSource(layers), { parentUuid: null });
  assert.equal(sha256(bytes), '1ee7023e245fede74523f6e8e84569dcb0ab126a92101bff6fc2197327e26146');
  const merged = await openSealedLayer(new MemoryBlob(bytes));
  assert.equal(merged.info.indexCount, 256);
  assert.equal(merged.index.length, 8);
});

test('commitLayer() of a sealed layer gives the same bytes', async (t) => {
  const bytes = await v3(t);
  const layer = await openSealedLayer(new MemoryBlob(bytes));
  assert.deepEqual(layer.info.uuid, V3_UUID);
  assert.deepEqual(await commit(layerSource(layer), { uuid: layer.info.uuid }), bytes);
});

test('layoutCommit() cuts long runs as golden vector V5 has them', () => {
  const words = new Uint32Array(12);
  setSegment(words, 0, 0, 16383, 100, false, 0);
  setSegment(words, 1, 16383, 16383, 100 + 16383, false, 0);
  setSegment(words, 2, 32766, 7234, 100 + 32766, false, 0);
  const layout = layoutCommit({ words, count: 3 });
  const lengths = Array.from({ length: layout.count }, (_, i) => diskEntry(layout.words, i).length);
  assert.deepEqual(lengths, [16320, 16319, 7361]);
});

test('commitLayer() refuses an index that readers would refuse, before it writes', async (t) => {
  const disk = await scratch(t, GIB);
  for (let i = 0; i < 10; i++) await disk.write(i * 1024, filled(512, 'x'));
  let wrote = false;
  const limits = { pieceSectors: 64, maxSectors: 16383, indexUnit: 4, maxEntries: 8 };
  await assert.rejects(commitLayer(disk.upper, { write: async () => void (wrote = true) }, { limits }), {
    code: 'OBD_FORMAT_LIMIT',
  });
  assert.equal(wrote, false);
});

test('commitLayer() reports a sink that fails', async (t) => {
  const disk = await scratch(t, GIB);
  await disk.write(0, filled(4 << 20, 'x'));
  let calls = 0;
  const sink = {
    write: async () => {
      if (++calls === 3) throw new Error('full');
    },
  };
  await assert.rejects(commitLayer(disk.upper, sink), /full/);
});

test('A padding entry has the bytes of formats.md 1.2', async (t) => {
  const disk = await scratch(t, GIB);
  await disk.write(0, filled(512, 'x'));
  const bytes = await commit(disk.upper);
  const second = bytes.subarray(4096 + 512 + 16, 4096 + 512 + 32);
  assert.equal(Buffer.from(second).toString('hex'), 'ffffffffffff03000000000000000000');
  assert.equal(wordsOf(second).length, 4);
});
