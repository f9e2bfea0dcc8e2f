import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { SECTOR } from '../../src/blob/index.js';
import { AppendLayer, commitLayer, SparseLayer, WritableLayerStack } from '../../src/lsmt/index.js';
import { memoryLayer } from '../support/layers.js';
import { tempDir } from '../support/unpack.js';

const SECTORS = 512;
const SIZE = SECTORS * SECTOR;
const HEADER = 4096;

interface Disk {
  readonly paths: { data: string; index: string };
  readonly layer: AppendLayer;
  readonly stack: WritableLayerStack;
}

async function newDisk(t: TestContext, size = SIZE): Promise<Disk> {
  const dir = tempDir(t);
  const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
  const layer = await AppendLayer.create(paths, { virtualSize: size });
  return { paths, layer, stack: await WritableLayerStack.open([], layer) };
}

async function reopen(paths: Disk['paths']): Promise<{ layer: AppendLayer; stack: WritableLayerStack }> {
  const layer = await AppendLayer.open(paths, { strict: true });
  return { layer, stack: await WritableLayerStack.open([], layer) };
}

async function content(stack: WritableLayerStack): Promise<Buffer> {
  const out = Buffer.alloc(stack.size);
  await stack.read(0, out);
  return out;
}

test('AppendLayer.compact() leaves what is live, and files no larger than that', async (t) => {
  const { paths, stack } = await newDisk(t, 8 << 20);
  const model = Buffer.alloc(8 << 20);
  for (let round = 0; round < 6; round++)
    for (let at = 0; at < 4 << 20; at += 64 << 10) {
      const bytes = randomBytes(64 << 10);
      bytes.copy(model, at);
      await stack.write(at, bytes);
    }
  await stack.discard(1 << 20, 1 << 20);
  model.fill(0, 1 << 20, 2 << 20);
  const result = await stack.compact();
  assert.equal(result?.sizeBefore, HEADER + (24 << 20));
  assert.deepEqual([result.live, result.freed], [3 << 20, 0]);
  assert.ok(result.sizeAfter <= HEADER + (3 << 20), `${result.sizeAfter} bytes`);
  assert.equal(statSync(paths.data).size, result.sizeAfter);
  assert.equal(statSync(paths.index).size, HEADER + 16 * result.recordsAfter);
  assert.ok(
    result.recordsAfter < 80 && result.recordsBefore > 380,
    `${result.recordsBefore} to ${result.recordsAfter}`,
  );
  assert.ok((await content(stack)).equals(model));
  // It goes on from there, and the result is what it was before.
  await stack.write(0, Buffer.alloc(4096, 9));
  model.fill(9, 0, 4096);
  await stack.close();
  const again = await reopen(paths);
  assert.ok((await content(again.stack)).equals(model));
  const second = await again.stack.compact();
  assert.equal(second?.sizeAfter, HEADER + (3 << 20));
  assert.deepEqual((await again.stack.compact())?.copied, 0, 'nothing is left to do');
  await again.stack.close();
  assert.deepEqual(readdirSync(join(paths.data, '..')).sort(), ['data', 'index']);
});

test('What is committed does not depend on whether the layer was compacted', async (t) => {
  const commits: Buffer[] = [];
  for (const compacted of [false, true]) {
    const { stack, layer } = await newDisk(t);
    let state = 7;
    const random = (below: number): number => (state = (Math.imul(state, 48271) >>> 0) % 0x7fffffff) % below;
    for (let i = 0; i < 300; i++) {
      const start = random(SECTORS - 40);
      if (i % 9 === 8) await stack.discard(start * SECTOR, random(40) * SECTOR);
      else await stack.write(start * SECTOR, Buffer.alloc((1 + random(39)) * SECTOR, i));
    }
    if (compacted) await stack.compact({ batch: 2 * SECTOR });
    const parts: Buffer[] = [];
    await commitLayer(layer, { write: async (bytes) => void parts.push(Buffer.from(bytes)) });
    await stack.close();
    commits.push(Buffer.concat(parts));
  }
  assert.ok(commits[0]?.equals(commits[1] ?? Buffer.alloc(0)));
});

test('What is committed depends on the content, not on the kind of layer or the order of writes', async (t) => {
  const size = 48 << 20;
  const content = Buffer.alloc(size);
  for (let at = 0; at < size; at += 4096) content.writeUInt32LE(at + 1, at);
  const ranges = [
    [0, 21 << 20],
    [22 << 20, (22 << 20) + 65536],
    [30 << 20, (39 << 20) + 512],
  ] as const;
  const commits: string[] = [];
  for (const [kind, step] of [
    ['append', 256],
    ['append', 61],
    ['append backwards', 61],
    ['append compacted', 100],
    ['sparse', 97],
  ] as const) {
    const dir = tempDir(t);
    const layer = kind.startsWith('append')
      ? await AppendLayer.create(
          { data: join(dir, 'data'), index: join(dir, 'index') },
          { virtualSize: size },
        )
      : await SparseLayer.create(join(dir, 'data'), { virtualSize: size });
    const stack = await WritableLayerStack.open([], layer);
    for (const [from, to] of ranges) {
      const parts: [number, number][] = [];
      for (let at = from; at < to; at += step * SECTOR) parts.push([at, Math.min(at + step * SECTOR, to)]);
      if (kind === 'append backwards') parts.reverse();
      if (kind === 'append compacted') await stack.write(from, Buffer.alloc(65536, 1));
      for (const [a, b] of parts) await stack.write(a, content.subarray(a, b));
    }
    if (kind === 'append compacted') await stack.compact({ batch: 99 * SECTOR });
    const hash = createHash('sha256');
    // A sparse layer holds whole blocks; the last range ends in the middle of one, which is zeroes either way.
    await stack.write((39 << 20) + 512, Buffer.alloc(4096 - 512));
    await commitLayer(layer, { write: async (bytes) => void hash.update(bytes) });
    await stack.close();
    commits.push(hash.digest('hex'));
  }
  assert.equal(new Set(commits).size, 1, commits.join('\n'));
});

test('AppendLayer.compact() under writes, discards and reads changes nothing of what they see', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.constantFrom(SECTOR, 5 * SECTOR, 1 << 20), async (seed, batch) => {
      const { paths, stack } = await newDisk(t);
      const model = new Uint8Array(SECTORS);
      let state = seed | 1;
      const random = (below: number): number =>
        ((state = Math.imul(state, 1103515245) + 12345) >>> 8) % below;
      let writing = true;
      let compactions = 0;
      const compactor = (async () => {
        while (writing) {
          await stack.compact({ batch });
          compactions++;
        }
      })();
      // Each lane has its own part of the disk, so that its model is right at any moment.
      const lanes = Array.from({ length: 8 }, async (_, lane) => {
        const width = SECTORS / 8;
        for (let i = 0; i < 40; i++) {
          const start = lane * width + random(width);
          const length = 1 + random((lane + 1) * width - start);
          const fill = random(5) === 0 ? 0 : 1 + random(255);
          if (fill === 0) await stack.discard(start * SECTOR, length * SECTOR);
          else await stack.write(start * SECTOR, new Uint8Array(length * SECTOR).fill(fill));
          model.fill(fill, start, start + length);
          if (random(8) === 0) await stack.flush();
          const got = Buffer.alloc(width * SECTOR);
          await stack.read(lane * width * SECTOR, got);
          for (let s = 0; s < width; s++)
            assert.equal(got[s * SECTOR + 17], model[lane * width + s], `lane ${lane}, sector ${s}`);
        }
      });
      await Promise.all(lanes).finally(() => (writing = false));
      await compactor;
      assert.ok(compactions > 0);
      await stack.close();
      const again = await reopen(paths);
      const got = await content(again.stack);
      for (let s = 0; s < SECTORS; s++)
        assert.ok(
          got.subarray(s * SECTOR, (s + 1) * SECTOR).every((byte) => byte === model[s]),
          `sector ${s}`,
        );
      await again.stack.compact();
      assert.ok((await content(again.stack)).equals(got));
      assert.equal(again.layer.usage.size, again.layer.usage.live);
      await again.stack.close();
    }),
    { numRuns: 12 },
  );
});

test('Blocks that writes have come after are freed, the file keeps its size', async (t) => {
  const { paths, stack } = await newDisk(t, 16 << 20);
  const bytes = randomBytes(1 << 20);
  for (let i = 0; i < 16; i++) await stack.write(0, bytes);
  await stack.write(4 << 20, bytes);
  const compacting = stack.compact({ pace: () => stack.write(8 << 20, bytes) });
  const result = await compacting;
  assert.ok(result !== undefined && result.freed >= 15 << 20, JSON.stringify(result));
  assert.ok(statSync(paths.data).blocks * 512 < 4 << 20, 'their blocks are free');
  const got = await content(stack);
  for (const at of [0, 4, 8]) assert.ok(got.subarray(at << 20, (at + 1) << 20).equals(bytes), `at ${at} MiB`);
  assert.equal(
    (await stack.compact())?.sizeAfter,
    HEADER + (3 << 20),
    'when it is quiet, the end is cut off',
  );
  await stack.close();
});

test('A full log takes no more records, says so, and is all right when compacted', async (t) => {
  const { paths, stack } = await newDisk(t);
  await stack.close();
  const layer = await AppendLayer.open(paths, { maxRecords: 100 });
  const full = await WritableLayerStack.open([], layer);
  for (let i = 0; i < 100; i++) await full.write(0, new Uint8Array(SECTOR).fill(i));
  await assert.rejects(full.write(0, new Uint8Array(SECTOR).fill(200)), { code: 'OBD_IO_NO_SPACE' });
  const out = new Uint8Array(SECTOR);
  await full.read(0, out);
  assert.equal(out[0], 99);
  assert.equal((await full.compact())?.recordsAfter, 1);
  await full.write(0, new Uint8Array(SECTOR).fill(201));
  await full.read(0, out);
  assert.equal(out[0], 201);
  await full.close();
});

test('Compaction is stopped by its signal and by closing, and leaves nothing half done', async (t) => {
  const { paths, layer, stack } = await newDisk(t);
  for (let i = 0; i < 200; i++) await stack.write((i % 40) * 4096, Buffer.alloc(4096, i));
  const before = await content(stack);
  const controller = new AbortController();
  await assert.rejects(
    stack.compact({
      batch: 4096,
      signal: controller.signal,
      pace: async () => {
        controller.abort();
      },
    }),
    { name: 'AbortError' },
  );
  assert.ok((await content(stack)).equals(before));
  const closing: Promise<void>[] = [];
  const stopped = assert.rejects(
    stack.compact({ batch: 4096, pace: async () => void closing.push(layer.close()) }),
    { name: 'AbortError' },
  );
  await stopped;
  await Promise.all(closing);
  const again = await reopen(paths);
  assert.ok((await content(again.stack)).equals(before));
  await again.stack.close();
  assert.deepEqual(readdirSync(join(paths.data, '..')).sort(), ['data', 'index']);
});

test('A log behind a symbolic link is replaced where it lies, and what a crash left beside it is removed', async (t) => {
  const { paths, stack } = await newDisk(t);
  for (let i = 0; i < 20; i++) await stack.write(0, Buffer.alloc(4096, i));
  await stack.close();
  const link = join(tempDir(t), 'link');
  symlinkSync(paths.index, link);
  writeFileSync(`${paths.index}.compact`, 'half');
  const again = await reopen({ data: paths.data, index: link });
  assert.equal(existsSync(`${paths.index}.compact`), false);
  await again.stack.compact();
  await again.stack.close();
  assert.equal(readFileSync(paths.index).length, HEADER + 16);
  // A log that somebody has moved away is not replaced by name.
  const moved = await reopen(paths);
  await moved.stack.write(0, Buffer.alloc(4096, 1));
  writeFileSync(`${paths.index}.other`, 'somebody else');
  const { renameSync } = await import('node:fs');
  renameSync(`${paths.index}.other`, paths.index);
  await assert.rejects(moved.stack.compact(), /Cannot replace .*not that of the open file/);
  await moved.stack.close();
  assert.equal(readFileSync(paths.index, 'utf8'), 'somebody else');
});

test('Compaction waits for reads that look at what it would reuse', async (t) => {
  const { paths, stack } = await newDisk(t);
  await stack.close();
  // A layer below that answers late keeps a read of both in flight.
  let release = (): void => undefined;
  const gate = new Promise<void>((resolve) => (release = resolve));
  const lower = await memoryLayer([{ start: 0, length: SECTORS, fill: 0xaa }], SIZE);
  const [file] = lower.files;
  assert.ok(file !== undefined);
  const read = file.blob.read.bind(file.blob);
  file.blob.read = async (...args) => {
    await gate;
    return read(...args);
  };
  const layer = await AppendLayer.open(paths);
  const slow = await WritableLayerStack.open([lower], layer);
  for (let s = 0; s < 64; s += 2) await slow.write(s * SECTOR, new Uint8Array(SECTOR).fill(1));
  const out = new Uint8Array(64 * SECTOR);
  const reading = slow.read(0, out);
  for (let s = 0; s < 64; s += 2) await slow.write(s * SECTOR, new Uint8Array(SECTOR).fill(2));
  let done = false;
  const compacting = slow.compact().then(() => (done = true));
  for (let i = 0; i < 20; i++) await slow.write(100 * SECTOR, new Uint8Array(SECTOR).fill(3));
  assert.equal(done, false);
  release();
  await reading;
  await compacting;
  for (let s = 0; s < 64; s++) assert.equal(out[s * SECTOR], s % 2 === 0 ? 1 : 0xaa, `sector ${s}`);
  await slow.close();
});
