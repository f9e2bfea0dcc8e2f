/**
 * What earlier conversions made: from a layer with all below it, and every option that its bytes depend on, to the blob
 * that came out and the repositories that got it. Names only, no content: whether the blob is still there is asked of
 * the target each time, so the worst that a stale entry does is a request.
 *
 * An LMDB file, shared by processes. It never fails a conversion: what cannot be read is not there, what cannot be
 * written is not remembered.
 */
import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type * as Lmdb from 'lmdb';
import { z } from 'zod';
import type { LayerCounts } from './oci-layer.js';

/** To be raised whenever the same input gives other bytes than before. */
const LAYER_FORMAT = 1;
/** Entries kept: about 50 MB at the most. When there are more, the tenth that was used longest ago goes. */
const MAX_ENTRIES = 50_000;
/** Repositories remembered of one blob: any of them will do for a mount. */
const MAX_PLACES = 8;

const schema = z.object({
  digest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  size: z.number().int().nonnegative(),
  dataSize: z.number().int().nonnegative(),
  counts: z.object({
    entries: z.number(),
    whiteouts: z.number(),
    bytes: z.number(),
    droppedXattrs: z.number(),
  }),
  /** `host/repository`, last used first. */
  places: z.array(z.string().max(300)).max(MAX_PLACES),
  /** Milliseconds since 1970. */
  used: z.number(),
});

/** A layer that was converted. */
export interface CachedLayer {
  readonly digest: string;
  readonly size: number;
  readonly dataSize: number;
  readonly counts: LayerCounts;
  readonly places: readonly string[];
}

/** All that the bytes of a layer depend on. */
export interface LayerIdentity {
  /** Of the layer and all below it. */
  readonly chainId: string;
  readonly fsType: 'ext4';
  readonly virtualSize: number;
  readonly codec: number;
  readonly blockSize: number;
}

/** See the head of this file. */
export class LayerCache {
  readonly #db: Lmdb.RootDatabase<string, string>;
  readonly #maxEntries: number;

  private constructor(db: Lmdb.RootDatabase<string, string>, maxEntries: number) {
    this.#db = db;
    this.#maxEntries = maxEntries;
  }

  /** Opens the cache in a directory, or makes it (mode 0700). @throws Error of the file system or of LMDB */
  static open(directory: string, maxEntries = MAX_ENTRIES): LayerCache {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    // Loaded when needed: tools that only apply layers come through here as well.
    const { open } = createRequire(import.meta.url)('lmdb') as typeof Lmdb;
    return new LayerCache(
      open<string, string>({
        path: join(directory, 'layers.mdb'),
        noSubdir: true,
        encoding: 'string',
        overlappingSync: false,
        cache: false,
      }),
      maxEntries,
    );
  }

  static #key(identity: LayerIdentity): string {
    const { chainId, fsType, virtualSize, codec, blockSize } = identity;
    const all = JSON.stringify([LAYER_FORMAT, chainId, fsType, virtualSize, codec, blockSize]);
    return `layer:${createHash('sha256').update(all).digest('hex')}`;
  }

  /** What the layer became before, or undefined. */
  find(identity: LayerIdentity): CachedLayer | undefined {
    try {
      return this.#get(LayerCache.#key(identity));
    } catch {
      return undefined;
    }
  }

  #get(key: string): z.infer<typeof schema> | undefined {
    const value = this.#db.get(key);
    if (value === undefined) return undefined;
    return schema.safeParse(JSON.parse(value)).data;
  }

  /** Remembers what a layer became. @param place repository that has the blob, if it is in a registry. */
  note(identity: LayerIdentity, layer: Omit<CachedLayer, 'places'>, place: string | undefined): void {
    try {
      const key = LayerCache.#key(identity);
      const { digest, size, dataSize, counts } = layer;
      this.#db.transactionSync(() => {
        const before = this.#get(key);
        const known = before?.digest === digest ? before.places.filter((other) => other !== place) : [];
        const places = [...(place === undefined ? [] : [place]), ...known].slice(0, MAX_PLACES);
        this.#db.putSync(key, JSON.stringify({ digest, size, dataSize, counts, places, used: Date.now() }));
        if (before === undefined) this.#makeRoom();
      });
    } catch {
      // The next conversion does without.
    }
  }

  #makeRoom(): void {
    if (this.#db.getKeysCount() <= this.#maxEntries) return;
    const all: [number, string][] = [];
    for (const { key } of this.#db.getRange()) all.push([this.#get(key)?.used ?? 0, key]);
    all.sort(([a], [b]) => a - b);
    for (const [, key] of all.slice(0, Math.ceil(this.#maxEntries / 10))) this.#db.removeSync(key);
  }

  /** Entries, for people and tests. */
  get size(): number {
    return this.#db.getKeysCount();
  }

  close(): Promise<void> {
    return this.#db.close();
  }
}
