import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { blocking } from '../../src/native/index.js';
import { tempDir } from '../support/unpack.js';

test('blocking reads attributes, names and links', async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'empty'));
  writeFileSync(join(dir, 'attribute'), '1\n');
  writeFileSync(join(dir, 'long'), 'x'.repeat(5000));
  symlinkSync('/no/such/place', join(dir, 'link'));
  assert.equal(await blocking.readFile(join(dir, 'attribute')), '1\n');
  assert.equal(await blocking.readFile(join(dir, 'long')), 'x'.repeat(4096));
  assert.deepEqual((await blocking.readdir(dir)).sort(), ['attribute', 'empty', 'link', 'long']);
  assert.deepEqual(await blocking.readdir(join(dir, 'empty')), []);
  assert.equal(await blocking.readlink(join(dir, 'link')), '/no/such/place');
});

test('blocking makes and removes, and says what a call was about', async (t) => {
  const dir = tempDir(t);
  await blocking.mkdir(join(dir, 'made'));
  await blocking.symlink('made', join(dir, 'link'));
  assert.equal(await blocking.readlink(join(dir, 'link')), 'made');
  await blocking.unlink(join(dir, 'link'));
  await blocking.rmdir(join(dir, 'made'));
  writeFileSync(join(dir, 'file'), 'before');
  await blocking.write(join(dir, 'file'), 'after!');
  assert.equal(readFileSync(join(dir, 'file'), 'utf8'), 'after!');
  assert.deepEqual(await blocking.readdir(dir), ['file']);
  const absent = join(dir, 'absent');
  for (const work of [blocking.readFile, blocking.readdir, blocking.readlink])
    await assert.rejects(work(absent), (error: NodeJS.ErrnoException) => {
      assert.equal(error.code, 'ENOENT');
      assert.match(error.message, /"[^"]*absent"/);
      return true;
    });
  await assert.rejects(blocking.readlink(join(dir, 'file')), { code: 'EINVAL' });
});
