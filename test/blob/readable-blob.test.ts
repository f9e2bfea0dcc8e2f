import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import assert from 'node:assert/strict';
import test from 'node:test';
import { FileBlob, MemoryBlob, SliceBlob, WritableMemoryBlob } from '../../src/blob/index.js';
import { testReadableBlob } from '../conformance/readable-blob.js';

testReadableBlob({
  name: 'MemoryBlob',
  factory: async (content) => new MemoryBlob(content),
  supports: {},
});

testReadableBlob({
  name: 'WritableMemoryBlob',
  factory: async (content) => new WritableMemoryBlob(Uint8Array.from(content)),
  supports: {},
});

testReadableBlob({
  name: 'SliceBlob',
  factory: async (content) =>
    new SliceBlob(
      new MemoryBlob(Buffer.concat([Buffer.alloc(77, 1), content, Buffer.alloc(33, 2)])),
      77,
      content.length,
    ),
  supports: {},
});

testReadableBlob({
  name: 'FileBlob',
  factory: async (content, onCleanup) => {
    const dir = await mkdtemp(join(tmpdir(), 'obd-test-'));
    onCleanup(() => rm(dir, { recursive: true }));
    await writeFile(join(dir, 'file'), content);
    return FileBlob.open(join(dir, 'file'));
  },
  supports: { rejectsAfterClose: true },
});

testReadableBlob({
  name: 'FileBlob with its ends in memory',
  factory: async (content, onCleanup) => {
    const dir = await mkdtemp(join(tmpdir(), 'obd-test-'));
    onCleanup(() => rm(dir, { recursive: true }));
    await writeFile(join(dir, 'file'), content);
    const blob = await FileBlob.open(join(dir, 'file'));
    await blob.keepEnds();
    return blob;
  },
  supports: { rejectsAfterClose: true },
});

test('FileBlob.keepEnds() reads right across the edges of what it keeps, and forgets', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'obd-test-'));
  try {
    const path = join(dir, 'file');
    const size = 200_000;
    const content = randomBytes(size);
    await writeFile(path, content);
    const blob = await FileBlob.open(path);
    await blob.keepEnds();
    const edges = [0, 1, 4095, 4096, 4097, size - 65537, size - 65536, size - 65535, size - 1, size];
    const into = Buffer.alloc(size);
    for (const from of edges)
      for (const to of edges.filter((edge) => edge >= from)) {
        await blob.read(from, into.subarray(0, to - from));
        assert.ok(content.subarray(from, to).equals(into.subarray(0, to - from)), `[${from}, ${to})`);
      }
    // What is kept is answered from memory, until it is forgotten.
    await writeFile(path, Buffer.alloc(size));
    await blob.read(size - 100, into.subarray(0, 100));
    assert.ok(content.subarray(size - 100).equals(into.subarray(0, 100)));
    blob.forgetEnds();
    await blob.read(size - 100, into.subarray(0, 100));
    assert.ok(into.subarray(0, 100).every((byte) => byte === 0));
    await blob.close();
  } finally {
    await rm(dir, { recursive: true });
  }
});
