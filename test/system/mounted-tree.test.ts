import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { fixture, noFixtures } from '../support/fixtures.js';
import { compareTree, readExpectedTree } from '../support/mounted-tree.js';

const skip = noFixtures || (process.getuid?.() !== 0 && 'owners and devices need root');

test('compareTree() agrees with GNU tar on a tree and finds what is changed in it', { skip }, () => {
  const dir = mkdtempSync(join(tmpdir(), 'obd-tree-'));
  try {
    execFileSync(
      'tar',
      ['-C', dir, '--xattrs', '--xattrs-include=*', '-xf', fixture('small/layers/layer1.tar')],
      { stdio: 'pipe' },
    );
    const expected = readExpectedTree(fixture('small/expected.json'), 1);
    const file = expected.find(({ type, size }) => type === 'reg' && (size ?? 0) > 0)?.path ?? '';
    // GNU tar sets the times of directories before it is done with them.
    const differences = () =>
      compareTree(dir, expected).filter(
        ({ path, field }) =>
          field !== 'mtime' || expected.find((entry) => entry.path === path)?.type !== 'dir',
      );
    assert.deepEqual(differences(), []);
    writeFileSync(join(dir, 'extra'), '');
    writeFileSync(join(dir, file), 'other');
    chmodSync(join(dir, file), 0o123);
    const fields = differences().map(({ path, field }) => `${path} ${field}`);
    for (const wanted of [
      '/extra presence',
      `${file} sha256`,
      `${file} mode`,
      `${file} size`,
      `${file} mtime`,
    ])
      assert.ok(fields.includes(wanted), `${wanted} in ${fields.join(', ')}`);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
