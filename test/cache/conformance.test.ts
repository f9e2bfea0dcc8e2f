import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlobCache, type BlobCacheOptions } from '../../src/cache/index.js';
import { silentLogger } from '../../src/log/index.js';
import { testReadableBlob } from '../conformance/readable-blob.js';
import { digestOf, SourceBlob } from '../support/source-blob.js';

const kinds: Record<string, Partial<BlobCacheOptions>> = {
  'CachedBlob with 4 KiB units': { unitSize: 4096, maxRunBytes: 16384 },
  'CachedBlob with units of 64 bytes': { unitSize: 64, maxRunBytes: 640 },
  'CachedBlob with room for a tenth': { unitSize: 1024, capacity: 32 << 10 },
  'CachedBlob whose disk takes nothing': { unitSize: 4096, minFree: 2 ** 62, spill: 8192 },
  'CachedBlob with units of 256 KiB': { unitSize: 256 << 10 },
};

for (const [name, options] of Object.entries(kinds))
  testReadableBlob({
    name,
    supports: { rejectsAfterClose: true },
    factory: async (content, onCleanup) => {
      const dir = await mkdtemp(join(tmpdir(), 'obd-cache-'));
      const cache = await BlobCache.open({
        dir,
        capacity: 2 ** 30,
        minFree: 0,
        unitSize: 4096,
        log: silentLogger,
        ...options,
      });
      const source = new SourceBlob(content);
      const blob = await cache.openBlob({
        digest: digestOf(content),
        url: 'http://registry.test/',
        size: content.length,
        source,
      });
      onCleanup(async () => {
        await blob.close();
        await cache.close();
        await rm(dir, { recursive: true });
      });
      return blob;
    },
  });
