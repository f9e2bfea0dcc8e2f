import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { checkout } from '../support/fixtures.js';

const noCompiler = spawnSync('cc', ['--version']).status !== 0 && 'cc not found';

test('a loop looks for commands only while that is quicker than sleep', { skip: noCompiler }, () => {
  const dir = mkdtempSync(join(tmpdir(), 'obd-spin-'));
  try {
    const program = join(dir, 'test');
    const compiled = spawnSync(
      'cc',
      [
        ...['-O1', '-g', '-Wall', '-Wextra', '-D_GNU_SOURCE', '-fsanitize=address,undefined'],
        ...['-I', join(checkout, 'native'), '-o', program],
        join(checkout, 'test', 'native', 'io_spin_test.c'),
        join(checkout, 'native', 'io_spin.c'),
      ],
      { encoding: 'utf8' },
    );
    assert.equal(compiled.status, 0, compiled.stderr);
    const run = spawnSync(program, { encoding: 'utf8', timeout: 60_000 });
    assert.equal(run.stdout, 'ok\n', run.stderr);
    assert.equal(run.status, 0, run.stderr);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
