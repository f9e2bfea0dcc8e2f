import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { Codec } from '../../src/native/index.js';
import { ZFileFile } from '../../src/zfile/index.js';
import { tempDir } from '../support/unpack.js';
import { zfile } from './support.js';

const MIB = 2 ** 20;
const OFFSET = 1536;

function target(path: string) {
  const fd = openSync(path, 'w');
  return {
    path,
    fd,
    writeAt: async (offset: number, bytes: Uint8Array) => void writeSync(fd, bytes, 0, bytes.length, offset),
  };
}

for (const codec of [Codec.LZ4, Codec.ZSTD])
  for (const size of [0, 1, 4096, 256 * 1024, 256 * 1024 + 1, 7 * MIB + 11])
    test(`ZFileFile writes what ZFileWriter writes: codec ${codec}, ${size} bytes`, async (t) => {
      let x = size;
      const plain = new Uint8Array(size).map((_, i) =>
        i % 5000 < 2500 ? i >> 4 : (x = (x * 16807) % 2147483647),
      );
      const path = join(tempDir(t), 'z');
      for (const [blockSize, initialHeader, step] of [
        [4096, false, 3 * MIB],
        [32768, true, 77_777],
      ] as const) {
        const to = target(path);
        const file = new ZFileFile(to, OFFSET, { codec, blockSize, initialHeader });
        for (let at = 0; at < size; at += step) await file.write(plain.subarray(at, at + step));
        const stored = await file.finish();
        file.close();
        closeSync(to.fd);
        const { bytes } = await zfile(plain, { codec, blockSize, finalHeader: !initialHeader });
        assert.equal(stored, bytes.length);
        assert.ok(readFileSync(path).subarray(OFFSET).equals(bytes));
      }
    });

test('ZFileFile tells of a file that cannot be written', async () => {
  const to = { ...target('/dev/null'), fd: openSync('/dev/full', 'w') };
  const file = new ZFileFile(to, 0);
  const plain = new Uint8Array(MIB).map((_, i) => i * i);
  await assert.rejects(
    async () => {
      for (let i = 0; i < 20; i++) await file.write(plain);
      await file.finish();
    },
    { code: 'OBD_IO_NO_SPACE' },
  );
  file.close();
  closeSync(to.fd);
});
