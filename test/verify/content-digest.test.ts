import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import test from 'node:test';
import { ContentDigest } from '../../src/verify/content-digest.js';

const GIB = 2 ** 30;

test('ContentDigest is the sha256 of a file, holes as zeroes, however it is given', () => {
  const file = Buffer.alloc(300_000);
  for (let i = 100_000; i < 200_000; i++) file[i] = i & 255;
  const expected = `sha256:${createHash('sha256').update(file).digest('hex')}`;
  for (const step of [1, 4095, 65_536, 100_000]) {
    const digest = new ContentDigest(file.length);
    for (let at = 100_000; at < 200_000; at += step)
      digest.add(at, file.subarray(at, Math.min(200_000, at + step)));
    assert.equal(digest.end(), expected);
  }
});

test('ContentDigest of a large file costs what it holds, and tells every byte and place', () => {
  const size = 10 * 2 ** 40 + 5;
  const data = new Uint8Array(200_000).fill(7);
  const of = (offset: number, bytes: Uint8Array, step = bytes.length): string => {
    const digest = new ContentDigest(size);
    for (let at = 0; at < bytes.length; at += step) digest.add(offset + at, bytes.subarray(at, at + step));
    return digest.end();
  };
  const first = of(5 * GIB + 1, data);
  assert.match(first, /^pieces-sha256:[0-9a-f]{64}$/);
  assert.equal(of(5 * GIB + 1, data, 333), first);
  // Zeroes that are stored are as good as a hole.
  const longer = new Uint8Array(400_000);
  longer.set(data, 100_000);
  assert.equal(of(5 * GIB + 1 - 100_000, longer, 50_000), first);
  assert.notEqual(of(5 * GIB + 2, data), first);
  assert.notEqual(of(5 * GIB + 1 + 65_536, data), first);
  const other = data.slice();
  other[199_999] = 8;
  assert.notEqual(of(5 * GIB + 1, other), first);
  assert.throws(() => of(size - 1, data), RangeError);
});
