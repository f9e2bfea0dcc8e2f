import assert from 'node:assert/strict';
import test from 'node:test';
import { formatDuration, formatShare, formatSize, formatTable, parseSize } from '../../src/cli/units.js';

test('formatSize() keeps three figures', () => {
  assert.deepEqual([0, 1023, 1024, 4.25 * 2 ** 20, 64 * 2 ** 30, 300 * 2 ** 40].map(formatSize), [
    '0 B',
    '1023 B',
    '1.0 KiB',
    '4.3 MiB',
    '64.0 GiB',
    '300 TiB',
  ]);
});

test('formatDuration() and formatShare() speak human', () => {
  assert.deepEqual([12, 4200, 200_000].map(formatDuration), ['12 ms', '4.2 s', '3 min 20 s']);
  assert.deepEqual([formatShare(1, 8), formatShare(0, 0)], ['12.5 %', '-']);
});

test('formatTable() aligns columns and leaves no trailing space', () => {
  assert.equal(
    formatTable([
      ['id', 'size', 'state'],
      ['a', '10 B', 'ready'],
      ['long', '9 B', 'up'],
    ]),
    'id    size  state\na     10 B  ready\nlong   9 B  up\n',
  );
});

test('parseSize() takes powers of 1024 and refuses nonsense by name', () => {
  assert.deepEqual(
    ['64', '4k', '25MiB', '1G', '1.5g'].map((s) => parseSize(s, 'x')),
    [64, 4096, 25 * 2 ** 20, 2 ** 30, 1.5 * 2 ** 30],
  );
  for (const bad of ['', 'x', '-1', '1.3', '9999P'])
    assert.throws(() => parseSize(bad, '--rate'), { code: 'OBD_CONFIG_VALUE', message: /--rate/ });
});
