import assert from 'node:assert/strict';
import test from 'node:test';
import { sharedCopy } from '../../src/blob/index.js';

function table(length: number, fill: (i: number) => number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => fill(i));
}

test('sharedCopy() gives the table that has the same bytes already', () => {
  for (const length of [0, 1, 4, 4099, 100_000]) {
    const first = table(length, (i) => i % 251);
    const shared = sharedCopy(first);
    assert.deepEqual(new Uint8Array(shared), first);
    assert.equal(sharedCopy(table(length, (i) => i % 251)), shared);
  }
});

test('sharedCopy() keeps tables apart that differ in one byte, wherever', () => {
  const length = 40_000;
  const first = sharedCopy(table(length, (i) => i % 251));
  for (const at of [0, 1, 4444, 20_001, length - 1]) {
    const other = table(length, (i) => (i % 251) + (i === at ? 1 : 0));
    assert.notEqual(sharedCopy(other), first);
    assert.deepEqual(new Uint8Array(sharedCopy(other)), other);
  }
});
