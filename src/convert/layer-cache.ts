/**
 * What earlier conversions made: from a layer with all below it, and every option that its bytes depend on, to the blob
 * that came out and the repositories that got it. Names only, no content: whether the blob is still there is asked of
 * the target each time, so the worst that a stale entry does is a request.
 *
 * A log of JSON lines, read when it is opened, added to in single writes, so that processes can share it; what one adds
 * the others see when they open it next. When it is too long, a new one with the entries used last takes its place. It
 * never fails a conversion: what cannot be read is not there, what cannot be written is not remembered. (LMDB, which the
 * snapshotter uses, was tried: it ends the process on a damaged file, which a cache must not.)
 */
import { createHash, randomBytes } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  fstatSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { isSystemError, makeDirectorySync } from '../blob/index.js';
import type { LayerCounts } from '../ocilayer/index.js';

/** To be raised whenever the same input gives other bytes than before. */
const LAYER_FORMAT = 1;
/** Of the log: some 20,000 entries, read in a tenth of a second. Twice this, and what others added meanwhile, is the most. */
const MAX_BYTES = 8 * 1024 * 1024;
/** Repositories remembered of one blob: any of them will do for a mount. */
const MAX_PLACES = 8;

const schema = z.object({
  key: z.string().regex(/^[0-9a-f]{64}$/),
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

/** See the head of this file. Calls are synchronous and quick. */
export class LayerCache {
  readonly #path: string;
  readonly #maxBytes: number;
  /** By key, the one used last at the end. */
  readonly #layers = new Map<string, CachedLayer>();
  #bytes = 0;

  private constructor(path: string, maxBytes: number) {
    this.#path = path;
    this.#maxBytes = maxBytes;
  }

  /**
   * Opens the cache in a directory, or makes it (mode 0700).
   * @param maxBytes of the log; by default 8 MiB.
   * @throws Error of the file system
   */
  static open(directory: string, maxBytes = MAX_BYTES): LayerCache {
    makeDirectorySync(directory, 0o700);
    const cache = new LayerCache(join(directory, 'layers.jsonl'), maxBytes);
    cache.#load();
    return cache;
  }

  #load(): void {
    let text = '';
    try {
      const fd = openSync(this.#path, 'r');
      try {
        // Nobody lets it grow to this: it is something else.
        if (fstatSync(fd).size > 16 * this.#maxBytes) rmSync(this.#path);
        else text = readFileSync(fd, 'utf8');
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      if (!isSystemError(error) || error.code !== 'ENOENT') throw error;
    }
    for (const line of text.split('\n')) {
      const entry = parseLine(line);
      if (entry === undefined) continue;
      const { key, ...layer } = entry;
      this.#layers.delete(key);
      this.#layers.set(key, layer);
    }
    this.#bytes = Buffer.byteLength(text);
    // A line that a crash cut off must not take the next one with it.
    if (text !== '' && !text.endsWith('\n')) this.#append('\n');
    if (this.#bytes > this.#maxBytes) this.#rewrite();
  }

  static #key(identity: LayerIdentity): string {
    const { chainId, fsType, virtualSize, codec, blockSize } = identity;
    const all = JSON.stringify([LAYER_FORMAT, chainId, fsType, virtualSize, codec, blockSize]);
    return createHash('sha256').update(all).digest('hex');
  }

  /** What the layer became before, or undefined. */
  find(identity: LayerIdentity): CachedLayer | undefined {
    return this.#layers.get(LayerCache.#key(identity));
  }

  /** Remembers what a layer became. @param place repository that has the blob, if it is in a registry. */
  note(identity: LayerIdentity, layer: Omit<CachedLayer, 'places'>, place: string | undefined): void {
    const key = LayerCache.#key(identity);
    const { digest, size, dataSize, counts } = layer;
    const before = this.#layers.get(key);
    const known = before?.digest === digest ? before.places.filter((other) => other !== place) : [];
    const places = [...(place === undefined ? [] : [place]), ...known].slice(0, MAX_PLACES);
    const entry = { digest, size, dataSize, counts, places };
    this.#layers.delete(key);
    this.#layers.set(key, entry);
    this.#append(lineOf(key, entry));
    if (this.#bytes > 2 * this.#maxBytes) this.#rewrite();
  }

  #append(text: string): void {
    try {
      appendFileSync(this.#path, text, { mode: 0o600 });
      this.#bytes += Buffer.byteLength(text);
    } catch {
      // The next conversion does without.
    }
  }

  /** Keeps what was used last, half of what the log may have. */
  #rewrite(): void {
    const lines: string[] = [];
    let bytes = 0;
    for (const [key, layer] of [...this.#layers].reverse()) {
      const line = lineOf(key, layer);
      bytes += Buffer.byteLength(line);
      if (bytes > this.#maxBytes / 2) this.#layers.delete(key);
      else lines.unshift(line);
    }
    const temporary = `${this.#path}.${randomBytes(6).toString('hex')}`;
    try {
      writeFileSync(temporary, lines.join(''), { mode: 0o600 });
      renameSync(temporary, this.#path);
      this.#bytes = Buffer.byteLength(lines.join(''));
    } catch {
      rmSync(temporary, { force: true });
    }
  }

  /** Entries, for people and tests. */
  get size(): number {
    return this.#layers.size;
  }
}

function lineOf(key: string, layer: CachedLayer): string {
  return `${JSON.stringify({ key, ...layer })}\n`;
}

function parseLine(line: string): z.infer<typeof schema> | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return schema.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}
