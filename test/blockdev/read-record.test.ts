import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ReadRecord } from '../../src/blockdev/index.js';

/** Numbers of the pieces that were read. */
function pieces(record: ReadRecord): number[] {
  const { bits } = record.memory;
  return Array.from({ length: bits.length * 8 }, (_, i) => i).filter(
    (i) => ((bits[i >>> 3] ?? 0) & (1 << (i & 7))) !== 0,
  );
}

test('ReadRecord marks every piece that a read touches, and no other', () => {
  // Against the plain definition, with random ranges around the borders of bytes and pieces.
  let seed = 7;
  const random = (below: number): number => (seed = (seed * 1103515245 + 12345) % 2 ** 31) % below;
  const size = 4096 * 80;
  for (let round = 0; round < 500; round++) {
    const record = ReadRecord.forSize(size);
    const expected = new Set<number>();
    for (let i = 0; i < 3; i++) {
      const offset = random(size);
      const length = 1 + random(Math.min(size - offset, 4096 * 20));
      record.note(offset, length, true);
      for (let p = Math.floor(offset / 4096); p * 4096 < offset + length; p++) expected.add(p);
    }
    assert.deepEqual(
      pieces(record),
      [...expected].sort((a, b) => a - b),
    );
  }
});

test('ReadRecord is bounded, whatever the size of the device and the number of reads', () => {
  const record = ReadRecord.forSize(2 ** 50);
  assert.equal(record.memory.bits.length, 2 ** 21);
  record.note(2 ** 50 - 1, 1, true);
  assert.deepEqual(pieces(record), [2 ** 24 - 1]);
  for (let i = 0; i < 10_000; i++) record.note(i * 512, 512, i % 2 === 0);
  const first = record.firstReads();
  assert.equal(first.length, 4096);
  assert.ok(Math.abs((first[0]?.time ?? 0) - Date.now()) < 60_000);
  assert.deepEqual(
    first.slice(1, 3).map(({ offset, length, local }) => [offset, length, local]),
    [
      [0, 512, true],
      [512, 512, false],
    ],
  );
  assert.equal(ReadRecord.forSize(0).memory.bits.length, 0);
});

test('ReadRecord takes memory only for what is read', () => {
  const before = process.memoryUsage().rss;
  const records = Array.from({ length: 200 }, () => ReadRecord.forSize(64 * 2 ** 30));
  for (const record of records) record.note(0, 131072, true);
  const each = (process.memoryUsage().rss - before) / records.length;
  // 1.1 MiB if it were all given at once; the heap grows a little meanwhile, too.
  assert.ok(each < 256 * 1024, `${each} bytes each`);
});
