import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
