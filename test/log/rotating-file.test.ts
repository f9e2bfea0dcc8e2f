import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { makeLogger, RotatingFile } from '../../src/log/index.js';
import { tempDir } from '../support/unpack.js';

test('RotatingFile keeps a bounded number of bounded files, the newest lines in the first', (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'deep', 'log');
  const file = new RotatingFile(path, { maxBytes: 100, keep: 2 });
  for (let i = 0; i < 100; i++) file.write(`line ${String(i).padStart(3, '0')}\n`);
  file.close();
  assert.deepEqual(readdirSync(join(dir, 'deep')).sort(), ['log', 'log.1', 'log.2']);
  const all = ['log.2', 'log.1', 'log'].map((name) => readFileSync(join(dir, 'deep', name), 'utf8')).join('');
  const lines = all.trimEnd().split('\n');
  assert.equal(lines.at(-1), 'line 099');
  for (const [i, line] of lines.entries())
    assert.equal(line, `line ${String(100 - lines.length + i).padStart(3, '0')}`);
  for (const name of readdirSync(join(dir, 'deep'))) assert.ok(statSync(join(dir, 'deep', name)).size <= 100);
  assert.equal(statSync(path).mode & 0o007, 0);
});

test('RotatingFile goes on where another process stopped, and can keep nothing', (t) => {
  const path = join(tempDir(t), 'log');
  for (let i = 0; i < 5; i++) {
    const file = new RotatingFile(path, { maxBytes: 30, keep: 0 });
    file.write(`line number ${i}\n`);
    file.close();
  }
  assert.equal(readFileSync(path, 'utf8'), 'line number 4\n');
  assert.equal(existsSync(`${path}.1`), false);
});

test('RotatingFile.reopen() goes on in a new file, or in the old one if there can be none', (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'logs', 'log');
  const file = new RotatingFile(path, { maxBytes: 40, keep: 1 });
  file.write('first line\n');
  renameSync(path, join(dir, 'old'));
  file.write('still there\n');
  file.reopen();
  file.write('second line\n');
  assert.equal(readFileSync(join(dir, 'old'), 'utf8'), 'first line\nstill there\n');
  assert.equal(readFileSync(path, 'utf8'), 'second line\n');
  // Not the old file's size: nothing is rotated yet.
  file.write('third line\n');
  assert.equal(existsSync(`${path}.1`), false);
  renameSync(join(dir, 'logs'), join(dir, 'away'));
  writeFileSync(join(dir, 'logs'), 'no directory');
  assert.throws(() => {
    file.reopen();
  });
  file.write('last line\n');
  assert.equal(readFileSync(join(dir, 'away', 'log'), 'utf8'), 'second line\nthird line\nlast line\n');
  file.close();
});

test('RotatingFile stays bounded where it cannot rename', (t) => {
  const path = join(tempDir(t), 'log');
  const file = new RotatingFile(path, { maxBytes: 20, keep: 1 });
  file.write('first line\n');
  // A directory in the place of the old log.
  mkdirSync(join(`${path}.1`, 'x'), { recursive: true });
  file.write('second line\n');
  file.close();
  assert.equal(readFileSync(path, 'utf8'), 'second line\n');
});

test('RotatingFile never fails its writer', { skip: !existsSync('/dev/full') && 'no /dev/full' }, (t) => {
  const path = join(tempDir(t), 'log');
  symlinkSync('/dev/full', path);
  const file = new RotatingFile(path, { maxBytes: 1000, keep: 1 });
  file.write('lost\n');
  file.write('lost\n');
  file.close();
});

test('makeLogger() writes JSON lines to its file', (t) => {
  const path = join(tempDir(t), 'log');
  const log = makeLogger('info', path, { maxBytes: 1000, keep: 1 });
  log.debug('not this');
  log.info({ token: 'secret', layer: 3 }, 'opened');
  const line = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  assert.equal(line['msg'], 'opened');
  assert.equal(line['layer'], 3);
  assert.equal(line['token'], '[redacted]');
});
