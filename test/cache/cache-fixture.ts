import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { BlobCache, type BlobCacheOptions, type CachedBlob } from '../../src/cache/index.js';
import { silentLogger } from '../../src/log/index.js';
import { digestOf, SourceBlob, testBytes } from '../support/source-blob.js';

/** Unit of most tests: a page, so that holes are exact and edges are common. */
export const UNIT = 4096;

/** A directory that goes away with the test. */
export function tempDir(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'obd-cache-'));
  t.after(() => {
    rmSync(dir, { recursive: true, force: true });
  });
  return dir;
}

/** A cache with small units that is closed with the test, or before. */
export async function openCache(
  t: TestContext,
  dir: string,
  options: Partial<BlobCacheOptions> = {},
): Promise<BlobCache> {
  const cache = await BlobCache.open({
    dir,
    capacity: 2 ** 30,
    minFree: 0,
    unitSize: UNIT,
    log: silentLogger,
    ...options,
  });
  t.after(() => cache.close());
  return cache;
}

/** A source of `size` bytes, its digest, and a way to open it through a cache. */
export function makeSource(
  size: number,
  seed = 1,
): { source: SourceBlob; digest: string; open: (cache: BlobCache) => Promise<CachedBlob> } {
  const bytes = testBytes(size, seed);
  const source = new SourceBlob(bytes);
  const digest = digestOf(bytes);
  const url = `http://registry.test/v2/x/blobs/${digest}`;
  return {
    source,
    digest,
    open: (cache) => cache.openBlob({ digest, url, size, source: async () => source }),
  };
}

/** Bytes [offset, offset + length) of a blob. */
export async function readRange(
  blob: { read(offset: number, into: Uint8Array): Promise<void> },
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const into = new Uint8Array(length);
  await blob.read(offset, into);
  return into;
}
