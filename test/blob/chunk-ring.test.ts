import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { ChunkRing, fileChunks } from '../../src/blob/index.js';
import { tempDir } from '../support/unpack.js';

test('a chunk of a ring stays as it is until so many bytes were taken after it, and memory is bounded', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 0, max: 300 }),
      fc.array(fc.integer({ min: 0, max: 20 }), { maxLength: 400 }),
      (window, kept, lengths) => {
        const ring = new ChunkRing(window, kept);
        const given: { chunk: Uint8Array; value: number; end: number }[] = [];
        const buffers = new Set<ArrayBufferLike>();
        let taken = 0;
        for (const [i, wanted] of lengths.entries()) {
          const room = ring.room();
          assert.equal(room.byteLength, window);
          room.fill(i % 251);
          const chunk = ring.take(Math.min(wanted, window));
          buffers.add(chunk.buffer);
          taken += chunk.byteLength;
          given.push({ chunk, value: i % 251, end: taken });
          for (const { chunk: bytes, value, end } of given)
            if (taken - end <= kept) assert.ok(bytes.every((byte) => byte === value));
        }
        assert.ok(buffers.size <= Math.ceil(kept / (3 * window)) + 2);
      },
    ),
  );
});

test('a ring is used again', () => {
  const ring = new ChunkRing(10, 0);
  const buffers = new Set<ArrayBufferLike>();
  for (let i = 0; i < 100; i++) {
    ring.room();
    buffers.add(ring.take(10).buffer);
  }
  assert.equal(buffers.size, 2);
});

test('fileChunks() gives a file from its beginning to its end, and keeps what it was asked to keep', async (t) => {
  const path = join(tempDir(t), 'file');
  const bytes = Buffer.alloc(11 * 2 ** 20 + 12_345);
  for (let at = 0; at + 4 <= bytes.length; at += 4) bytes.writeUInt32LE(at, at);
  writeFileSync(path, bytes);
  const last: { chunk: Uint8Array; at: number }[] = [];
  let at = 0;
  for await (const chunk of fileChunks(path, 3 * 2 ** 20)) {
    last.push({ chunk, at });
    at += chunk.byteLength;
    if (last.length > 4) last.shift();
    for (const { chunk: piece, at: start } of last)
      assert.ok(bytes.subarray(start, start + piece.byteLength).equals(piece));
  }
  assert.equal(at, bytes.length);
  await assert.rejects(fileChunks(`${path}.none`).next(), { code: 'ENOENT' });
});
