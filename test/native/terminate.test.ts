import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { tempDir } from '../support/unpack.js';

const PROGRAM = fileURLToPath(new URL('./terminated-program.js', import.meta.url));
const ROUNDS = process.env['OBD_TERMINATE_ROUNDS'] ?? '12';

for (const kind of ['ext4', 'digest', 'pack', 'zfile', 'file', 'inflate', 'blocking'])
  test(`threads that are terminated during calls leave the process alive: ${kind}`, async (t) => {
    const child = spawn(process.execPath, [PROGRAM, kind, tempDir(t), ROUNDS], {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 60_000,
    });
    let out = '';
    child.stdout.on('data', (chunk) => (out += String(chunk)));
    child.stderr.on('data', (chunk) => (out += String(chunk)));
    const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
    assert.deepEqual({ code, signal, out }, { code: 0, signal: null, out: ROUNDS });
  });
