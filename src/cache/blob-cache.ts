import { statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { LRUCache } from 'lru-cache';
import { CacheError, ConfigError, ioError, type ReadableBlob, makeDirectory } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { ByteBudget } from './byte-budget.js';
import { CachedBlob } from './cached-blob.js';
import { DiskHealth } from './disk-health.js';
import { Evictor } from './evictor.js';
import { cacheKey } from './names.js';
import { openUnitFile, removeUnitFile } from './open-unit-file.js';
import type { CacheCounters, CacheServices } from './cache-services.js';
import { SharedBlob } from './shared-blob.js';
import type { UnitFile } from './unit-file.js';
import { Verifier } from './verifier.js';

/** How a {@link BlobCache} behaves. */
export interface BlobCacheOptions {
  /** Directory of the cache, made if it is missing. */
  readonly dir: string;
  /** Most bytes on disk (`cacheSizeGB`). */
  readonly capacity: number;
  /** Bytes of a unit (`refillSize`). */
  readonly unitSize: number;
  readonly log: Logger;
  /** Bytes of the file system to leave free. Default 1 GiB, as the reference. */
  readonly minFree?: number;
  /** Most time for which a fetched unit is not yet durable. Default 1 s: what a crash costs is fetched again. */
  readonly commitIntervalMs?: number;
  /** Most bytes for which that holds, per blob. Default 64 MiB: a second of a fast link. */
  readonly commitBytes?: number;
  /** Most bytes of one read of a source. Default 1 MiB: long enough that its latency does not matter much. */
  readonly maxRunBytes?: number;
  /** Most reads of one source at once. Default 8: enough to hide latency, few enough for a registry's limits. */
  readonly maxRuns?: number;
  /** Most bytes fetched and not yet stored. Default 64 MiB. */
  readonly memory?: number;
  /** Most bytes of units kept in memory while the disk takes none. Default 32 MiB. */
  readonly spill?: number;
  /** Seconds since 1970; for tests. */
  readonly now?: () => number;
}

/** A blob to be read through the cache. */
export interface CacheRequest {
  /** `sha256:<hex>` or `sha512:<hex>`: the name in the cache. Without one the URL is. */
  readonly digest?: string | undefined;
  /** Where it comes from. May hold a signature: only its hash is stored. */
  readonly url: string;
  /** Bytes of the blob. */
  readonly size: number;
  /** The source, or how to open it when something is missing; the cached blob owns it from then on. */
  readonly source: ReadableBlob | (() => Promise<ReadableBlob>);
  /** False if the bytes are not those that the digest names (unpacked data, say). Default true. */
  readonly digestNamesBytes?: boolean;
  /**
   * Bytes of a unit if the blob is not in the cache yet; at most the cache's. For a blob of which it is known what will be
   * read: less is fetched that is not needed. Default: the cache's.
   */
  readonly unitSize?: number | undefined;
  /** Data file outside of the cache directory, not bounded by its capacity (cache type `download`). */
  readonly path?: string;
}

/** Cache statistics. */
export interface CacheStats extends Readonly<CacheCounters> {
  readonly usedBytes: number;
  readonly capacity: number;
  readonly openBlobs: number;
  /** How often the directory was looked through. */
  readonly scans: number;
  readonly diskFailures: number;
  /** False while the disk rests after a failure. */
  readonly diskUsable: boolean;
}

interface Entry {
  readonly shared: Promise<SharedBlob>;
  users: number;
  closing: Promise<void> | undefined;
}

/**
 * A process's cache of remote blobs in one directory: bounded, crash-safe, shared with other processes
 * (docs/cache.md). One per process and directory.
 */
export class BlobCache {
  readonly dir: string;
  readonly #options: BlobCacheOptions;
  readonly #entries = new Map<string, Entry>();
  /** Those of the entries that are open and have a file, in the cache directory and outside. */
  readonly #files = new Map<string, UnitFile>();
  readonly #services: CacheServices;
  readonly #evictor: Evictor;
  readonly #verifier: Verifier;
  readonly #health: DiskHealth;
  readonly #counters: CacheCounters = {
    reads: 0,
    readBytes: 0,
    hits: 0,
    fetches: 0,
    fetchedBytes: 0,
    evictedBytes: 0,
    badUnits: 0,
    unstoredBytes: 0,
  };
  readonly #uncommitted = new Set<SharedBlob>();
  /** Of the next round; none while nothing waits for one: an idle cache does not wake up. */
  #timer: NodeJS.Timeout | undefined;
  readonly #minFree: number;
  #committing: Promise<void> | undefined;
  #closed = false;
  #quiesce: () => Promise<void> = async () => undefined;

  private constructor(options: BlobCacheOptions) {
    this.#options = options;
    this.dir = resolve(options.dir);
    this.#minFree = options.minFree ?? 2 ** 30;
    const log = options.log;
    const now = options.now ?? (() => Math.floor(Date.now() / 1000));
    this.#health = new DiskHealth(log);
    this.#verifier = new Verifier(log);
    this.#evictor = new Evictor({
      dir: this.dir,
      capacity: options.capacity,
      minFree: this.#minFree,
      log,
      now,
      openFiles: () => [...this.#files].flatMap(([key, file]) => (key.startsWith('/') ? [] : [file])),
      isOpen: (key) => this.#entries.has(key),
      quiesce: () => this.#quiesce(),
      onEvicted: (bytes) => (this.#counters.evictedBytes += bytes),
    });
    this.#services = {
      log,
      health: this.#health,
      memory: new ByteBudget(options.memory ?? 64 << 20),
      spill: new LRUCache({
        maxSize: Math.max(options.spill ?? 32 << 20, options.unitSize),
        sizeCalculation: (bytes) => bytes.byteLength,
      }),
      maxRunBytes: options.maxRunBytes ?? 1 << 20,
      maxRuns: options.maxRuns ?? 8,
      missSize: options.unitSize,
      now,
      counters: this.#counters,
      write: (file, first, bytes) => this.#write(file, first, bytes, now()),
      completed: (blob) => {
        this.#verifier.enqueue(blob);
      },
      verified: () => this.#verifier.idle(),
      wrote: (blob) => {
        this.#uncommitted.add(blob);
        const bytes = (blob.file?.dirtyCount ?? 0) * blob.unitSize;
        if (bytes >= (options.commitBytes ?? 64 << 20)) void this.#commit();
        else this.#commitLater();
      },
    };
  }

  /**
   * Opens the cache and looks how full it is.
   * @throws ConfigError OBD_CONFIG_VALUE, or IoError if the directory cannot be made or read.
   */
  static async open(options: BlobCacheOptions): Promise<BlobCache> {
    if (!Number.isSafeInteger(options.unitSize) || options.unitSize <= 0 || options.unitSize > 2 ** 30)
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot open cache "${options.dir}": unit size is ${options.unitSize}, expected 1 to ${2 ** 30}`,
      );
    const cache = new BlobCache(options);
    try {
      await makeDirectory(cache.dir, 0o755);
      await cache.#evictor.start();
    } catch (error) {
      throw ioError(error, `open cache directory "${options.dir}"`, options.dir);
    }
    return cache;
  }

  /**
   * Sets how to wait until no I/O worker uses what it looked up in a presence map before the call: every worker has
   * finished, or dropped, each command it had planned. Space is given back only after that.
   */
  setQuiesce(quiesce: () => Promise<void>): void {
    this.#quiesce = quiesce;
  }

  get stats(): CacheStats {
    return {
      ...this.#counters,
      usedBytes: this.#evictor.usedBytes,
      capacity: this.#options.capacity,
      openBlobs: this.#entries.size,
      scans: this.#evictor.scans,
      diskFailures: this.#health.failures,
      diskUsable: this.#health.usable,
    };
  }

  /**
   * Opens a blob. If its file cannot be used the blob is read from the source alone, with a warning.
   * @throws ConfigError for a digest that is not one, CacheError if this process has the blob open with another size.
   */
  async openBlob(request: CacheRequest): Promise<CachedBlob> {
    if (this.#closed) throw new TypeError(`Cache "${this.dir}" is closed`);
    if (!Number.isSafeInteger(request.size) || request.size < 0)
      throw new ConfigError('OBD_CONFIG_VALUE', `Cannot cache a blob of ${request.size} bytes`);
    const name = cacheKey(request);
    const key = request.path === undefined ? name : resolve(request.path);
    for (;;) {
      let entry = this.#entries.get(key);
      if (entry?.closing) {
        await entry.closing;
        continue;
      }
      if (!entry) {
        entry = { shared: this.#load(key, name, request), users: 0, closing: undefined };
        this.#entries.set(key, entry);
      }
      entry.users++;
      const mine = entry;
      const release = (): Promise<void> => this.#release(key, mine);
      const shared = await mine.shared;
      if (shared.size !== request.size) {
        await release();
        throw new CacheError(
          'OBD_CACHE_IO',
          `Cannot open cached blob "${name}" with ${request.size} bytes: it is open with ${shared.size}`,
          { source: name, expected: shared.size, actual: request.size },
        );
      }
      return new CachedBlob(name, shared, request.source, release);
    }
  }

  /** Never rejects. */
  async #load(key: string, name: string, request: CacheRequest): Promise<SharedBlob> {
    const { size } = request;
    const unitSize = Math.min(request.unitSize ?? Infinity, this.#options.unitSize);
    const path = request.path ?? join(this.dir, key);
    let file: UnitFile | undefined;
    try {
      // An empty blob needs no file.
      if (size > 0) file = await openUnitFile(path, { size, unitSize, maxUnitSize: this.#options.unitSize });
    } catch (error) {
      this.#health.warn('Cached blob cannot be opened; reading from the source', { path, err: error });
    }
    const digest =
      request.digest !== undefined && request.digest !== '' && request.digestNamesBytes !== false
        ? name
        : undefined;
    const shared = new SharedBlob({ key: name, size, unitSize, digest }, file, this.#services);
    if (file) this.#files.set(key, file);
    shared.noteComplete();
    return shared;
  }

  async #release(key: string, entry: Entry): Promise<void> {
    if (--entry.users > 0) return;
    entry.closing = this.#unload(key, entry).finally(() => this.#entries.delete(key));
    await entry.closing;
  }

  async #unload(key: string, entry: Entry): Promise<void> {
    const shared = await entry.shared;
    await shared.idle();
    await this.#verifier.remove(shared);
    this.#uncommitted.delete(shared);
    const { file } = shared;
    if (!file) return;
    // An eviction holds on to the files it has chosen from.
    await this.#evictor.idle();
    this.#files.delete(key);
    const empty = file.presentCount === 0 && !file.promoted;
    try {
      await file.close(new Date());
      if (empty) await removeUnitFile(file.path);
    } catch (error) {
      this.#health.failed('close', file.path, error);
    }
  }

  /** A blob outside of the cache directory counts for its own file system only. */
  async #write(file: UnitFile, first: number, bytes: Uint8Array, now: number): Promise<boolean> {
    const needed = (): number => file.newBytes(first, bytes.byteLength);
    if (dirname(file.path) !== this.dir) {
      const disk = await statfs(dirname(file.path));
      if (disk.bavail * disk.bsize - needed() < this.#minFree) return false;
      await file.write(first, bytes, now);
      return true;
    }
    let reserved = 0;
    try {
      // Making room takes time, in which more may be needed.
      for (let more = needed(); more > 0; more = needed() - reserved) {
        if (!(await this.#evictor.reserve(more))) return false;
        reserved += more;
      }
      await file.write(first, bytes, now);
    } finally {
      this.#evictor.written(reserved);
    }
    return true;
  }

  /** Has a round begin within an interval from now, if one is needed. A round that is under way asks again at its end. */
  #commitLater(): void {
    if (this.#closed || this.#committing || this.#uncommitted.size === 0) return;
    this.#timer ??= setTimeout(() => void this.#commit(), this.#options.commitIntervalMs ?? 1000).unref();
  }

  #stopTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** One round over all blobs at a time; fdatasync is slow. Never rejects. */
  #commit(): Promise<void> {
    this.#stopTimer();
    this.#committing ??= (async () => {
      for (const blob of [...this.#uncommitted]) {
        this.#uncommitted.delete(blob);
        try {
          await blob.file?.commit();
        } catch (error) {
          this.#health.failed('commit', blob.file?.path ?? blob.key, error);
        }
      }
    })().finally(() => {
      this.#committing = undefined;
      this.#commitLater();
    });
    return this.#committing;
  }

  /** Makes all that was fetched before the call durable. */
  async flush(): Promise<void> {
    await Promise.all([...this.#entries.values()].map(async (entry) => (await entry.shared).stored()));
    while (this.#committing) await this.#committing;
    await this.#commit();
  }

  /** Settles once no blob waits for its digest to be checked. */
  async verified(): Promise<void> {
    await this.#verifier.idle();
  }

  /** Makes everything durable. The owner has closed the blobs. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#stopTimer();
    await Promise.all([...this.#entries.values()].flatMap((entry) => entry.closing ?? []));
    await this.#evictor.idle();
    await this.flush();
  }
}
