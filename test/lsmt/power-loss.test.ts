import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { SECTOR } from '../../src/blob/index.js';
import { AppendLayer, WritableLayerStack } from '../../src/lsmt/index.js';
import { Journal } from '../support/journal.js';
import { tempDir } from '../support/unpack.js';

const SECTORS = 128;
const SIZE = SECTORS * SECTOR;
const PAGE = 4096;

interface Op {
  readonly start: number;
  readonly length: number;
  readonly fill: number;
}

const op: fc.Arbitrary<Op> = fc
  .record({
    start: fc.nat(SECTORS - 1),
    length: fc.integer({ min: 1, max: 24 }),
    fill: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 255 })),
  })
  .map((o) => ({ ...o, length: Math.min(o.length, SECTORS - o.start) }));

/**
 * What a disk may hold after power was lost: every page written since the last fdatasync is there or not, each by
 * itself, and the file has grown as far as it likes.
 */
function survivor(synced: Buffer, written: Buffer, choose: () => number): Buffer {
  const size = synced.length + (choose() % (written.length - synced.length + 1));
  const out = Buffer.alloc(size);
  for (let at = 0; at < size; at += PAGE) {
    const from = choose() % 2 === 0 ? written : synced;
    if (at < from.length) from.copy(out, at, at, Math.min(at + PAGE, size, from.length));
  }
  return out;
}

test('Power loss takes nothing from an append layer that was flushed', async (t) => {
  const dir = tempDir(t);
  let n = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(op, { maxLength: 25 }),
      fc.array(op, { maxLength: 25 }),
      fc.infiniteStream(fc.nat(0x7fffffff)),
      async (flushed, lost, stream) => {
        const paths = { data: join(dir, `d${++n}`), index: join(dir, `i${n}`) };
        const disk = await WritableLayerStack.open(
          [],
          await AppendLayer.create(paths, { virtualSize: SIZE }),
        );
        const model = new Uint8Array(SECTORS);
        const touched = new Set<number>();
        const play = async ({ start, length, fill }: Op): Promise<void> => {
          if (fill === 0) await disk.discard(start * SECTOR, length * SECTOR);
          else await disk.write(start * SECTOR, new Uint8Array(length * SECTOR).fill(fill));
        };
        for (const o of flushed) {
          await play(o);
          model.fill(o.fill, o.start, o.start + o.length);
        }
        await disk.flush();
        const synced = [readFileSync(paths.data), readFileSync(paths.index)] as const;
        for (const o of lost) {
          await play(o);
          for (let s = o.start; s < o.start + o.length; s++) touched.add(s);
        }
        await disk.close();
        const choose = (): number => (stream.next() as { value: number }).value;
        writeFileSync(paths.data, survivor(synced[0], readFileSync(paths.data), choose));
        writeFileSync(paths.index, survivor(synced[1], readFileSync(paths.index), choose));

        const layer = await AppendLayer.open(paths);
        const again = await WritableLayerStack.open([], layer);
        const got = new Uint8Array(SIZE);
        await again.read(0, got);
        for (let s = 0; s < SECTORS; s++) {
          if (touched.has(s)) continue;
          const sector = got.subarray(s * SECTOR, (s + 1) * SECTOR);
          assert.ok(
            sector.every((byte) => byte === model[s]),
            `sector ${s} holds ${sector[0] ?? -1}, expected ${model[s] ?? -1} (${layer.recovery?.message ?? 'log whole'})`,
          );
        }
        // And it goes on from there.
        await again.write(0, new Uint8Array(SECTOR).fill(77));
        await again.close();
        const strict = await AppendLayer.open(paths, { strict: true });
        await strict.close();
      },
    ),
    { numRuns: 40 },
  );
});

test('Power loss at any moment of a compaction takes nothing that was flushed', async (t) => {
  const dir = tempDir(t);
  let n = 0;
  let compactions = 0;
  const journal = new Journal(t);
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.oneof({ weight: 5, arbitrary: op }, { weight: 1, arbitrary: fc.constant('flush' as const) }),
        {
          minLength: 30,
          maxLength: 60,
        },
      ),
      fc.infiniteStream(fc.nat(0x7fffffff)),
      async (steps, stream) => {
        const choose = (): number => (stream.next() as { value: number }).value;
        const paths = { data: join(dir, `d${++n}`), index: join(dir, `i${n}`) };
        const disk = await WritableLayerStack.open(
          [],
          await AppendLayer.create(paths, { virtualSize: SIZE }),
        );
        let running = true;
        const compactor = (async () => {
          for (; running; compactions++) await disk.compact({ batch: 3 * SECTOR });
        })();
        const model = new Uint8Array(SECTORS);
        const writes: { readonly from: number; readonly op: Op }[] = [];
        const flushes = [{ at: journal.length, model: model.slice() }];
        for (const step of steps) {
          if (step === 'flush') {
            const state = model.slice();
            await disk.flush();
            flushes.push({ at: journal.length, model: state });
            continue;
          }
          writes.push({ from: journal.length, op: step });
          const { start, length, fill } = step;
          if (fill === 0) await disk.discard(start * SECTOR, length * SECTOR);
          else await disk.write(start * SECTOR, new Uint8Array(length * SECTOR).fill(fill));
          model.fill(fill, start, start + length);
        }
        running = false;
        await compactor;
        await disk.close();
        for (let crash = 0; crash < 12; crash++) {
          const first = flushes[0]?.at ?? 0;
          const moment = first + (choose() % (journal.length - first + 1));
          const flushed = flushes.findLast(({ at }) => at <= moment);
          // What a sector may hold beside what it did at the flush: something written later, or nothing where
          // the record of such a write survived and its data did not.
          const later = new Map<number, Set<number>>();
          for (const { from, op: o } of writes)
            if (from >= (flushed?.at ?? 0) && from < moment)
              for (let s = o.start; s < o.start + o.length; s++)
                later.set(s, (later.get(s) ?? new Set([0])).add(o.fill));
          const after = { data: join(dir, `d${n}-${crash}`), index: join(dir, `i${n}-${crash}`) };
          writeFileSync(after.data, journal.survivor(paths.data, moment, choose));
          writeFileSync(after.index, journal.survivor(paths.index, moment, choose));
          const layer = await AppendLayer.open(after);
          const again = await WritableLayerStack.open([], layer);
          const got = new Uint8Array(SIZE);
          await again.read(0, got);
          await again.close();
          for (let s = 0; s < SECTORS; s++) {
            const sector = got.subarray(s * SECTOR, (s + 1) * SECTOR);
            const value = sector[0] ?? -1;
            assert.ok(
              sector.every((byte) => byte === value) &&
                (value === flushed?.model[s] || later.get(s)?.has(value) === true),
              `moment ${moment}: sector ${s} holds ${value}, expected ${flushed?.model[s] ?? -1} (${layer.recovery?.message ?? 'log whole'})`,
            );
          }
        }
      },
    ),
    { numRuns: 20, endOnFailure: true },
  );
  assert.ok(compactions > 20);
});
