import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

test('overlaybd-ctr does rpull and obdconv, and leaves everything else to ctr', async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'ours'));
  mkdirSync(join(dir, 'theirs'));
  // As the reference is installed: under ctr's own name.
  symlinkSync(join(checkout, 'bin', 'overlaybd-ctr'), join(dir, 'ours', 'ctr'));
  writeFileSync(join(dir, 'theirs', 'ctr'), '#!/bin/sh\nprintf "%s|" "$@"\nexit 7\n', { mode: 0o755 });
  const path = [join(dir, 'ours'), join(dir, 'theirs'), process.env['PATH']].join(':');
  const ctr = (...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> =>
    new Promise((resolve) => {
      const env = { ...process.env, PATH: path };
      execFile(join(dir, 'ours', 'ctr'), args, { env }, (error, stdout, stderr) => {
        resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
      });
    });
  const socket = join(dir, 'none.sock');
  const [passed, help, rpull, obdconv, mysql] = await Promise.all([
    ctr('-a', socket, '--namespace=x', 'image', 'rm', '--sync', 'a b'),
    ctr(),
    ctr('--debug', '-a', socket, 'rpull', '--plain-http', 'h.example/app:1'),
    ctr(`--address=${socket}`, '-n', 'k8s.io', 'obdconv', '--vsize', '32', 'a', 'b'),
    ctr('obdconv', '--dbstr', 'user@tcp(db)/x', 'a', 'b'),
  ]);
  assert.deepEqual([passed.status, passed.stdout], [7, `-a|${socket}|--namespace=x|image|rm|--sync|a b|`]);
  assert.deepEqual([help.status, help.stdout], [7, '|']);
  for (const { status, stderr } of [rpull, obdconv]) {
    assert.equal(status, 8);
    assert.ok(stderr.includes(`Cannot connect to containerd at "${socket}"`), stderr);
  }
  assert.match(mysql.stderr, /--dbstr is not supported/);
  assert.equal(mysql.status, 2);
});
