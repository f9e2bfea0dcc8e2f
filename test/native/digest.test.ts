import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { digestOfFile, StreamDigest } from '../../src/native/index.js';
import { tempDir } from '../support/unpack.js';

const bytes = new Uint8Array(9_000_001).map((_, i) => (i * 7) >> 3);

for (const algorithm of ['sha256', 'sha512'] as const)
  test(`StreamDigest gives the ${algorithm} of node:crypto, however the bytes come`, async () => {
    const expected = createHash(algorithm).update(bytes).digest('hex');
    for (const step of [9_000_001, 1_000_000, 65_537]) {
      const digest = new StreamDigest(algorithm);
      let waits = 0;
      for (let at = 0; at < bytes.length; at += step) {
        const wait = digest.update(bytes.subarray(at, at + step));
        if (wait !== undefined) waits++;
        await wait;
      }
      assert.ok(waits > 0, 'it never asked to be waited for');
      assert.equal(await digest.end(), expected);
    }
    assert.equal(await new StreamDigest(algorithm).end(), createHash(algorithm).digest('hex'));
  });

test('digestOfFile() hashes a part of a file, and fails where it ends', async (t) => {
  const path = join(tempDir(t), 'file');
  writeFileSync(path, bytes);
  const fd = openSync(path, 'r');
  t.after(() => {
    closeSync(fd);
  });
  const expected = createHash('sha256').update(bytes.subarray(5, 8_000_000)).digest('hex');
  assert.equal(await digestOfFile(fd, 5, 8_000_000 - 5), expected);
  await assert.rejects(digestOfFile(fd, 0, bytes.length + 1), { code: 'ENODATA' });
});
