import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { HOLE, SegmentList, SegmentMap, ZEROED } from '../../src/lsmt/index.js';

const SECTORS = 600;

/** Per sector: hole, zeroed, or the moffset it maps to. */
type Model = Int32Array;
const NOTHING = -2;
const ZERO = -1;

interface Op {
  readonly kind: 'data' | 'zero' | 'clear';
  readonly start: number;
  readonly length: number;
  readonly moffset: number;
}

const op: fc.Arbitrary<Op> = fc
  .record({
    kind: fc.constantFrom('data' as const, 'data' as const, 'zero' as const, 'clear' as const),
    start: fc.nat(SECTORS - 1),
    length: fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 200 })),
    moffset: fc.nat(100_000),
  })
  .map((o) => ({ ...o, length: Math.min(o.length, SECTORS - o.start) }));

function apply(map: SegmentMap, model: Model, { kind, start, length, moffset }: Op): void {
  for (let i = 0; i < length; i++)
    model[start + i] = kind === 'data' ? moffset + i : kind === 'zero' ? ZERO : NOTHING;
  if (kind === 'data') map.setData(start, length, moffset);
  else if (kind === 'zero') map.setZeroed(start, length);
  else map.clear(start, length);
}

function check(map: SegmentMap, model: Model, from: number, length: number): void {
  const list = new SegmentList(1);
  map.lookup(from, length, list);
  let at = from;
  for (let i = 0; i < list.length; i++) {
    assert.equal(list.lba[i], at);
    const sectors = list.sectors[i] ?? 0;
    assert.ok(sectors > 0);
    for (let s = 0; s < sectors; s++) {
      const tag = list.tag[i];
      const got = tag === HOLE ? NOTHING : tag === ZEROED ? ZERO : (list.moffset[i] ?? 0) + s;
      assert.equal(got, model[at + s], `sector ${at + s}`);
    }
    at += sectors;
  }
  assert.equal(at, from + length);
}

for (const join of [false, true])
  test(`SegmentMap maps every sector as a plain array does (join ${join})`, () => {
    fc.assert(
      fc.property(fc.array(op, { maxLength: 60 }), fc.nat(SECTORS - 1), (ops, from) => {
        const map = new SegmentMap(join);
        const model = new Int32Array(SECTORS).fill(NOTHING);
        for (const o of ops) apply(map, model, o);
        check(map, model, 0, SECTORS);
        check(map, model, from, SECTORS - from);
        const { count } = map.segments();
        assert.equal(count, map.length);
      }),
      { numRuns: 300 },
    );
  });

test('SegmentMap stays right across many leaves', () => {
  // A thousand short runs and random overwrites: leaves split, empty and vanish.
  fc.assert(
    fc.property(fc.infiniteStream(fc.nat(0x7fffffff)), fc.boolean(), (stream, join) => {
      const random = (below: number): number => (stream.next().value ?? 0) % below;
      const size = 20_000;
      const map = new SegmentMap(join);
      const model = new Int32Array(size).fill(NOTHING);
      for (let i = 0; i < 2500; i++) {
        const start = random(size);
        const length = Math.min(random(50) === 0 ? random(8000) + 1 : random(6) + 1, size - start);
        const kind = (['data', 'data', 'data', 'zero', 'clear'] as const)[random(5)] ?? 'data';
        apply(map, model, { kind, start, length, moffset: join ? start : random(1_000_000) });
      }
      check(map, model, 0, size);
      let runs = 0;
      for (let i = 0; i < size; i++) {
        const here = model[i] ?? NOTHING;
        const before = i === 0 ? NOTHING : (model[i - 1] ?? NOTHING);
        const continues = here === ZERO ? before === ZERO : before >= 0 && here === before + 1;
        if (here !== NOTHING && !continues) runs++;
      }
      if (join) assert.equal(map.length, runs, 'joined runs are maximal');
    }),
    { numRuns: 8 },
  );
});

test('SegmentMap.segments() cuts runs to what a segment holds', () => {
  const map = new SegmentMap(true);
  map.setData(10, 25, 1000);
  map.setZeroed(100, 21);
  const { count } = map.segments(8, 10);
  assert.equal(count, 3 + 3);
});
