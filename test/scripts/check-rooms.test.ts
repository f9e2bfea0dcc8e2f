import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { checkout } from '../support/fixtures.js';

function check(files: Record<string, string>): { status: number | null; stderr: string } {
  const dir = mkdtempSync(join(tmpdir(), 'rooms-'));
  try {
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(dirname(join(dir, file)), { recursive: true });
      writeFileSync(join(dir, file), text);
    }
    const script = join(checkout, 'dist', 'scripts', 'check-rooms.js');
    return spawnSync(process.execPath, [script, dir], { encoding: 'utf8' });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test('check-rooms accepts the edges of the architecture', () => {
  const run = check({
    'lsmt/a.ts': "import { x } from '../blob/index.js';\nimport './b.js';\n",
    'cli/c.ts': "import '../lsmt/index.js';",
  });
  assert.deepEqual([run.status, run.stderr], [0, '']);
});

for (const [why, files, message] of [
  [
    'a format that reaches the network',
    { 'lsmt/a.ts': "import { x } from '../registryblob/index.js';" },
    /"lsmt" may not import "registryblob"/,
  ],
  [
    'an export that does',
    { 'zfile/a.ts': "export * from '../image/index.js';" },
    /"zfile" may not import "image"/,
  ],
  [
    'a way past an index',
    { 'lsmt/a.ts': "import type { x } from '../blob/errors.js';" },
    /entered through its index/,
  ],
  [
    'a lazy import',
    { 'blob/a.ts': "const m = await import('../log/index.js');" },
    /"blob" may not import "log"/,
  ],
  ['an unknown room', { 'utils/a.ts': '' }, /no such room/],
  ['a way out of the tree', { 'blob/a.ts': "import '../../test/x.js';" }, /outside/],
] as const)
  test(`check-rooms refuses ${why}`, () => {
    const run = check(files);
    assert.equal(run.status, 1);
    assert.match(run.stderr, message);
  });
