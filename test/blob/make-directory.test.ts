// Node's recursive mkdir never returns for a path below /proc that cannot exist: an attach with such a cache directory hung.
import assert from 'node:assert/strict';
import { statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { makeDirectory, makeDirectorySync } from '../../src/blob/index.js';
import { tempDir } from '../support/unpack.js';

for (const [name, make] of [
  ['makeDirectory', makeDirectory],
  ['makeDirectorySync', async (path: string, mode?: number) => makeDirectorySync(path, mode)],
] as const) {
  test(`${name}() makes what is missing, with its mode, and is content with what is there`, async (t) => {
    const dir = tempDir(t);
    assert.equal(await make(join(dir, 'a', 'b', 'c'), 0o700), true);
    assert.equal(await make(join(dir, 'a', 'b', 'c'), 0o755), false);
    for (const part of ['a', 'a/b', 'a/b/c']) assert.equal(statSync(join(dir, part)).mode & 0o777, 0o700);
    symlinkSync(join(dir, 'a'), join(dir, 'link'));
    assert.equal(await make(join(dir, 'link')), false);
    assert.equal(await make(join(dir, 'link', 'd')), true);
    assert.equal(await make('/'), false);
  });

  test(`${name}() ends with an error where nothing can be made`, async (t) => {
    const file = join(tempDir(t), 'file');
    writeFileSync(file, '');
    await assert.rejects(make(file), { code: 'EEXIST' });
    await assert.rejects(make(join(file, 'a', 'b')), { code: 'ENOTDIR' });
    await assert.rejects(make('/proc/nonexistent/x/y'), { code: 'ENOENT' });
  });
}

test('makeDirectory() may be called by many at once', async (t) => {
  const path = join(tempDir(t), 'a', 'b', 'c');
  const made = await Promise.all(Array.from({ length: 16 }, () => makeDirectory(path)));
  assert.equal(made.filter((one) => one).length, 1);
});
