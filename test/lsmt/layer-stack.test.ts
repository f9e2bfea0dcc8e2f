import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { MemoryBlob, SECTOR } from '../../src/blob/index.js';
import {
  HOLE,
  LayerStack,
  mergeSegments,
  openSealedLayer,
  openWarpLayer,
  SegmentIndex,
  SegmentList,
  setSegment,
  ZEROED,
  type Segments,
} from '../../src/lsmt/index.js';
import { flattenOps, layerBytes, memoryLayer, type SectorOp } from '../support/layers.js';

const SECTORS = 200;

const sectorOp: fc.Arbitrary<SectorOp> = fc
  .record({
    start: fc.nat(SECTORS - 1),
    length: fc.integer({ min: 1, max: 40 }),
    fill: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 255 })),
  })
  .map((op) => ({ ...op, length: Math.min(op.length, SECTORS - op.start) }));

const layers = fc.array(fc.array(sectorOp, { maxLength: 12 }), { minLength: 1, maxLength: 7 });

test('LayerStack.read() serves the newest layer, at any offset and length', async () => {
  await fc.assert(
    fc.asyncProperty(layers, fc.nat(SECTORS * SECTOR), fc.nat(SECTORS * SECTOR), async (ops, a, b) => {
      const model = new Uint8Array(SECTORS * SECTOR);
      for (const { start, length, fill } of ops.flat())
        model.fill(fill, start * SECTOR, (start + length) * SECTOR);
      const open = ops.map((o) => memoryLayer(flattenOps(o, SECTORS), SECTORS * SECTOR));
      const stack = new LayerStack(await Promise.all(open));
      const whole = new Uint8Array(stack.size);
      await stack.read(0, whole);
      assert.ok(Buffer.from(whole).equals(model));
      const [from, to] = [Math.min(a, b), Math.max(a, b)];
      const part = new Uint8Array(to - from).fill(0xee);
      await stack.read(from, part);
      assert.ok(Buffer.from(part).equals(model.subarray(from, to)));
      // Extents cover the range, alternate, and where they say no data there are zeroes.
      let at = from;
      let last: boolean | undefined;
      for (const { offset, length, data } of stack.extents(from, to - from)) {
        assert.equal(offset, at);
        assert.ok(length > 0 && data !== last);
        if (!data) assert.ok(model.subarray(offset, offset + length).every((byte) => byte === 0));
        at = offset + length;
        last = data;
      }
      assert.equal(at, to);
      await stack.close();
    }),
    { numRuns: 150 },
  );
});

/** The merge of formats.md 1.5 as it is written there, recursive, for comparison. */
function referenceMerge(
  levels: readonly (readonly number[][])[],
  level: number,
  lo: number,
  hi: number,
): number[][] {
  const out: number[][] = [];
  const index = levels[level];
  if (index === undefined) return out;
  for (const [start = 0, length = 0, moffset = 0, zeroed = 0] of index) {
    if (start + length <= lo || start >= hi) continue;
    if (start > lo) out.push(...referenceMerge(levels, level + 1, lo, start));
    const from = Math.max(start, lo);
    const to = Math.min(start + length, hi);
    out.push([from, to - from, zeroed ? moffset : moffset + from - start, zeroed, level]);
    lo = start + length;
  }
  if (lo < hi) out.push(...referenceMerge(levels, level + 1, lo, hi));
  return out;
}

test('mergeSegments() gives the reference merge, entry for entry', () => {
  fc.assert(
    fc.property(layers, (ops) => {
      const topFirst = ops.map((o) => flattenOps(o, SECTORS)).toReversed();
      const levels = topFirst.map((l) =>
        l.map((o) => [o.start, o.length, o.start + 5000, o.fill === 0 ? 1 : 0]),
      );
      const tagged = topFirst.map((l, tag): Segments => {
        const words = new Uint32Array(l.length * 4);
        l.forEach((o, i) => {
          setSegment(words, i, o.start, o.length, o.start + 5000, o.fill === 0, tag);
        });
        return { words, count: l.length };
      });
      const merged = mergeSegments(tagged.toReversed());
      const expected = referenceMerge(levels, 0, 0, Infinity);
      const want = new Uint32Array(expected.length * 4);
      expected.forEach(([start = 0, length = 0, moffset = 0, zeroed = 0, tag = 0], i) => {
        setSegment(want, i, start, length, moffset, zeroed === 1, tag);
      });
      assert.deepEqual(merged.words.slice(0, merged.count * 4), want);
    }),
    { numRuns: 300 },
  );
});

test('SegmentIndex.lookup() is right beyond 2 TiB and for any spread of segments', () => {
  const spread = fc.constantFrom(1, 1000, 2 ** 20, 2 ** 32 - 7, 2 ** 33 + 12345, 2 ** 40 + 3);
  fc.assert(
    fc.property(
      fc.array(fc.record({ gap: fc.nat(30), far: spread, length: fc.integer({ min: 1, max: 16383 }) }), {
        maxLength: 60,
      }),
      fc.array(
        fc.record({
          pick: fc.nat(),
          by: fc.integer({ min: -20000, max: 20000 }),
          n: fc.integer({ min: 1, max: 50000 }),
        }),
        {
          minLength: 1,
          maxLength: 20,
        },
      ),
      (shapes, asks) => {
        const words = new Uint32Array(shapes.length * 4);
        const model: { start: number; end: number; moffset: number; zeroed: boolean; tag: number }[] = [];
        let at = 0;
        shapes.forEach(({ gap, far, length }, i) => {
          const start = at + gap * (far % 17 === 0 ? 0 : far);
          if (start + length > 2 ** 44) return;
          const segment = {
            start,
            end: start + length,
            moffset: 2 ** 43 + i * 77,
            zeroed: i % 5 === 4,
            tag: i % 600,
          };
          setSegment(words, model.length, start, length, segment.moffset, segment.zeroed, segment.tag);
          model.push(segment);
          at = start + length;
        });
        const index = SegmentIndex.from(SegmentIndex.build({ words, count: model.length }).data());
        const list = new SegmentList(2);
        for (const { pick, by, n } of asks) {
          const near = model[pick % Math.max(model.length, 1)]?.start ?? 0;
          const lba = Math.max(near + by, 0);
          index.lookup(lba, n, list);
          let cursor = lba;
          for (let i = 0; i < list.length; i++) {
            assert.equal(list.lba[i], cursor);
            const sectors = list.sectors[i] ?? 0;
            const covering = model.find((s) => s.start <= cursor && s.end > cursor);
            const next = model.find((s) => s.start > cursor)?.start ?? Infinity;
            if (covering === undefined) {
              assert.equal(list.tag[i], HOLE);
              assert.equal(sectors, Math.min(next, lba + n) - cursor);
            } else {
              assert.equal(list.tag[i], covering.zeroed ? ZEROED : covering.tag);
              assert.equal(list.moffset[i], covering.zeroed ? 0 : covering.moffset + cursor - covering.start);
              assert.equal(sectors, Math.min(covering.end, lba + n) - cursor);
            }
            cursor += sectors;
          }
          assert.equal(cursor, lba + n);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('LayerStack reads both sides of 2 TiB of a 5 TB disk', async () => {
  const size = 5 * 10 ** 12;
  const far = 2 ** 32 + 2 ** 31; // 3 TiB, in sectors
  const stack = new LayerStack([
    await memoryLayer([{ start: 100, length: 2, fill: 1 }], size),
    await memoryLayer(
      [
        { start: far, length: 1, fill: 2 },
        { start: far + 2 ** 31, length: 3, fill: 3 },
      ],
      size,
    ),
  ]);
  const at = async (sector: number): Promise<number | undefined> => {
    const out = new Uint8Array(SECTOR);
    await stack.read(sector * SECTOR, out);
    return out[SECTOR - 1];
  };
  assert.equal(await at(100), 1);
  assert.equal(await at(100 + 2 ** 32), 0);
  assert.equal(await at(far - 2 ** 32), 0);
  assert.equal(await at(far), 2);
  assert.equal(await at(far + 1), 0);
  assert.equal(await at(far + 2 ** 31 + 2), 3);
});

test('LayerStack takes 255 layers and refuses 256', async () => {
  const many: Promise<Awaited<ReturnType<typeof memoryLayer>>>[] = [];
  for (let i = 0; i < 255; i++)
    many.push(memoryLayer([{ start: i, length: 300 - i, fill: i + 1 }], 300 * SECTOR));
  const open = await Promise.all(many);
  const stack = new LayerStack(open);
  const out = new Uint8Array(300 * SECTOR);
  await stack.read(0, out);
  for (let i = 0; i < 255; i++) assert.equal(out[i * SECTOR], i + 1);
  assert.equal(out[299 * SECTOR], 255);
  assert.throws(() => new LayerStack([...open, ...open.slice(0, 1)]), { code: 'OBD_FORMAT_LIMIT' });
});

test('LayerStack takes the topmost stated virtual size and refuses a stack that states none', async () => {
  const sized = (size: number) => memoryLayer([{ start: 0, length: 1, fill: 1 }], size);
  const stack = new LayerStack([await sized(4096), await sized(8192), await sized(0)]);
  assert.equal(stack.size, 8192);
  const none = [await sized(0)];
  assert.throws(() => new LayerStack(none), /virtual size is 0 in every layer/);
});

test('openSealedLayer() opens an index of 1,000,000 entries', async () => {
  const ops = Array.from({ length: 1_000_000 }, (_, i) => ({ start: i * 3, length: 2, fill: 0 }));
  const layer = await memoryLayer(ops, 2 ** 31);
  assert.equal(layer.index.length, 1_000_000);
  const list = new SegmentList();
  layer.index.lookup(2_999_997, 3, list);
  assert.deepEqual([list.length, list.tag[0], list.tag[1]], [2, ZEROED, HOLE]);
});

test('openWarpLayer() reads both files, pads only the last sector of the target, and never gives zeroes beyond it', async () => {
  // One sector of its own, then three in the target at sectors 2, 3, 4; on disk the tags are 6 and 7.
  const bytes = layerBytes([{ start: 0, length: 1, fill: 9 }], 100 * SECTOR, 6);
  const own = bytes.subarray(0, 4096 + SECTOR);
  const words = new Uint32Array(8);
  words.set(new Uint32Array(bytes.slice(4096 + SECTOR, 4096 + SECTOR + 16).buffer));
  words.set([10, 3 << 18, 2, 7 << 24], 4);
  const trailer = bytes.slice(-4096);
  new DataView(trailer.buffer).setBigUint64(40, 2n, true);
  const file = new Uint8Array(Buffer.concat([own, new Uint8Array(words.buffer), trailer]));
  const target = new Uint8Array(4 * SECTOR + 100).fill(5);
  const stack = new LayerStack([
    await openWarpLayer(new MemoryBlob(file, 'warp'), new MemoryBlob(target, 'target')),
  ]);
  const out = new Uint8Array(3 * SECTOR);
  await stack.read(10 * SECTOR, out);
  assert.ok(out.subarray(0, 2 * SECTOR + 100).every((byte) => byte === 5));
  assert.ok(out.subarray(2 * SECTOR + 100).every((byte) => byte === 0));
  await stack.read(0, out.subarray(0, SECTOR));
  assert.equal(out[0], 9);
  const short = new LayerStack([
    await openWarpLayer(
      new MemoryBlob(file, 'warp'),
      new MemoryBlob(target.subarray(0, 4 * SECTOR), 'short'),
    ),
  ]);
  await short.read(10 * SECTOR, out.subarray(0, 2 * SECTOR));
  await assert.rejects(short.read(12 * SECTOR, out.subarray(0, SECTOR)), {
    code: 'OBD_FORMAT_TRUNCATED',
    source: 'short',
    offset: 4 * SECTOR,
  });
});

test('LayerStack reports the failure of one file and settles only when nothing writes into the buffer any more', async () => {
  const layer = await openSealedLayer(
    new MemoryBlob(
      layerBytes(
        [
          { start: 0, length: 1, fill: 1 },
          { start: 2, length: 1, fill: 2 },
        ],
        4096,
      ),
    ),
  );
  let settled = false;
  let late = false;
  const blob = {
    name: 'slow',
    size: 1 << 20,
    read: async (offset: number) => {
      if (offset === 4096) throw new Error('medium error');
      await new Promise((resolve) => setTimeout(resolve, 20));
      late = settled;
    },
    close: async () => undefined,
  };
  const stack = new LayerStack([{ ...layer, files: [{ blob, padsLastSector: false }] }]);
  await assert.rejects(stack.read(0, new Uint8Array(2048)), /medium error/);
  settled = true;
  await new Promise((resolve) => setTimeout(resolve, 40));
  assert.equal(late, false);
});
