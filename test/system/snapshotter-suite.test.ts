/** containerd's own conformance suite for snapshotters (snapshotter-suite/suite_test.go). */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const GOPATH = '/usr/share/gocode';
const containerd = `${GOPATH}/src/github.com/containerd/containerd/snapshots/testsuite`;
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : !existsSync(containerd)
      ? "containerd's suite is not installed (package golang-github-containerd-containerd-dev)"
      : missing({ go: 'golang-go' });

/** A server and a directory tree for each; the suite's own default is one per CPU. */
const PARALLEL = 4;
const TESTS = 21;

test('containerd’s conformance suite passes', { skip }, async (t) => {
  const dir = tempDir(t);
  const before = takeSnapshot();
  const suite = join(dir, 'suite');
  await run('go', ['test', '-c', '-o', suite], {
    cwd: join(checkout, 'test', 'system', 'snapshotter-suite'),
    env: { ...process.env, GO111MODULE: 'off', GOPATH, GOFLAGS: '-p=2' },
  });
  const { stdout } = await run(
    suite,
    ['-test.v', '-test.root', '-test.parallel', String(PARALLEL), '-test.timeout', '10m'],
    {
      cwd: dir,
      env: { ...process.env, TMPDIR: dir, OBD_SNAPSHOTTER: join(checkout, 'bin', 'overlaybd-snapshotter') },
      maxBuffer: 2 ** 28,
    },
  ).catch((error: unknown) => {
    const { stdout } = error as { stdout: string };
    throw new Error(stdout.slice(-10_000), { cause: error });
  });
  const results = [...stdout.matchAll(/^ {4}--- (\w+): TestSnapshotter\/(\w+)/gm)];
  const named = (result: string): string[] =>
    results.filter((found) => found[1] === result).map((found) => found[2] ?? '');
  assert.equal(results.length, TESTS);
  assert.deepEqual(named('FAIL'), []);
  // Renaming a directory of a lower layer needs "redirect_dir" on by default in the kernel's overlayfs.
  assert.ok(named('SKIP').every((name) => name === 'Rename'));
  assert.deepEqual(await leftSince(before), []);
});
