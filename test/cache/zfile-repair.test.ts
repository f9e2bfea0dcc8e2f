import assert from 'node:assert/strict';
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ZFileReader, ZFileWriter } from '../../src/zfile/index.js';
import { digestOf, SourceBlob } from '../support/source-blob.js';
import { openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

/** A ZFile of 100 blocks that compress to about half. */
async function packed(): Promise<{ plain: Uint8Array; stored: Uint8Array }> {
  const plain = Uint8Array.from({ length: 100 * 4096 }, (_, i) => (i & 1 ? (i * i) >> 7 : i >> 12));
  const pieces: Uint8Array[] = [];
  const writer = new ZFileWriter({ write: async (piece) => void pieces.push(piece.slice()) });
  await writer.write(plain);
  await writer.finish();
  return { plain, stored: Buffer.concat(pieces) };
}

test('ZFileReader over a CachedBlob repairs what went bad on disk, and asks for no more than that', async (t) => {
  const dir = tempDir(t);
  const cache = await openCache(t, dir);
  const { plain, stored } = await packed();
  const source = new SourceBlob(stored);
  const digest = digestOf(stored);
  const blob = await cache.openBlob({ digest, url: 'http://x/', size: stored.length, source });
  const reader = await ZFileReader.open(blob);
  assert.deepEqual(await readRange(reader, 0, reader.size), plain);
  await cache.flush();
  await cache.verified();
  const fetched = source.bytesRead;
  const fd = openSync(join(dir, digest), 'r+');
  const bad = [3, 40, 41, 90];
  for (const block of bad)
    writeSync(fd, Buffer.from([0xff, 0, 0xff]), 0, 3, reader.storedBlock(block).offset + 20);
  closeSync(fd);
  assert.deepEqual(await readRange(reader, 0, reader.size), plain);
  assert.ok(
    source.bytesRead - fetched <= 2 * bad.length * UNIT,
    `${source.bytesRead - fetched} fetched again`,
  );
  assert.ok(source.bytesRead > fetched);
  await cache.flush();
  await cache.verified();
  assert.equal(blob.verified, true);
  await reader.close();
});

test('ZFileReader over a CachedBlob fails with an address when the source is bad too', async (t) => {
  const cache = await openCache(t, tempDir(t));
  const { plain, stored } = await packed();
  const source = new SourceBlob(stored);
  const blob = await cache.openBlob({
    digest: digestOf(stored),
    url: 'http://x/',
    size: stored.length,
    source,
  });
  const reader = await ZFileReader.open(blob);
  const { offset } = reader.storedBlock(50);
  source.onRead = (start, into) => {
    if (start > offset || start + into.length <= offset) return undefined;
    return () => {
      const at = offset - start;
      into[at] = (into[at] ?? 0) ^ 1;
    };
  };
  await blob.forget();
  await assert.rejects(
    readRange(reader, 50 * 4096, 10),
    (error: Error & { code: string; offset: number }) => {
      assert.match(error.code, /^OBD_FORMAT_/);
      assert.ok(error.offset >= 0);
      return true;
    },
  );
  assert.deepEqual(await readRange(reader, 0, 4096), plain.slice(0, 4096));
  await reader.close();
});
