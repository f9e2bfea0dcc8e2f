import { open, opendir, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { CacheError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { punchHole } from '../native/index.js';
import { isCacheKey } from './names.js';
import { openUnitFile, removeUnitFile } from './open-unit-file.js';
import { Sidecar, sidecarPath } from './sidecar.js';
import type { UnitFile } from './unit-file.js';

/**
 * Keeps a cache directory within its capacity, and some of the disk free.
 *
 * What is used is what the file system says (other processes fill the same directory), plus what was written since it
 * was asked. Above the high mark units are evicted down to the low mark, the least recently used first, whichever blob
 * they are in. A unit's last use is known only as well as it has to be: readers set a byte per unit (`touched`), and
 * each round turns those bytes into "used now". A blob that nobody has open was last used when its sidecar says.
 *
 * Space is taken only from blobs that no other process has open; those count, but are passed over.
 */
export class Evictor {
  readonly #options: EvictorOptions;
  readonly #high: number;
  readonly #low: number;
  #used = 0;
  #free = Infinity;
  /** Reserved and not yet written. */
  #unwritten = 0;
  /** What was not yet written when the last scan began, and what was reserved since: the scan may not have seen it. */
  #sinceScan = 0;
  #scans = 0;
  #scannedAt = -Infinity;
  /** False if the file system cannot make any: then only whole files can go. */
  #holes = true;
  /** Bytes given back since the start. */
  #freed = 0;
  #round: Promise<void> | undefined;
  /** Until then nothing more is tried: the last rounds made no room. */
  #futileUntil = -Infinity;

  constructor(options: EvictorOptions) {
    this.#options = options;
    const { capacity } = options;
    // The reference's low mark; the high one is half way to full, so that a round has time to finish.
    this.#low = Math.max(capacity * 0.9, capacity - 50 * 2 ** 30);
    this.#high = (this.#low + capacity) / 2;
  }

  /** How often the file system was asked. */
  get scans(): number {
    return this.#scans;
  }

  /** Bytes used, as well as is known now. */
  get usedBytes(): number {
    return this.#used;
  }

  /** Looks how full the cache is. Before anything else. @throws errors of node:fs */
  async start(): Promise<void> {
    this.#holes = await this.#tryHole();
    await this.#removeOrphans();
    await this.#scan();
  }

  /** Sidecars whose data somebody has removed, and those that a crash left half made. */
  async #removeOrphans(): Promise<void> {
    const { dir } = this.#options;
    for await (const { name } of await opendir(dir)) {
      const data = name.replace(/\.units(?:\.tmp)?$/, '');
      if (data === name || !isCacheKey(data)) continue;
      const path = join(dir, name);
      // Young ones may belong to a process that is just making them.
      const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }));
      if (Date.now() - mtimeMs < ORPHAN_AGE_MS) continue;
      const orphan =
        name.endsWith('.tmp') || (await stat(join(dir, data)).catch(() => undefined)) === undefined;
      if (orphan) await rm(path, { force: true });
    }
  }

  async #tryHole(): Promise<boolean> {
    const { dir, log } = this.#options;
    const path = join(dir, `.hole-${process.pid}`);
    try {
      const file = await open(path, 'w', 0o600);
      try {
        await rm(path);
        await file.writeFile(Buffer.alloc(4096));
        if (await punchHole(file.fd, 0, 4096)) return true;
      } finally {
        await file.close();
      }
    } catch (error) {
      // A full or read-only disk says nothing about holes.
      log.debug({ dir, err: error }, 'Could not try whether the file system makes holes');
      return true;
    }
    log.warn({ dir }, 'File system cannot make holes: only blobs that are not in use can be evicted');
    return false;
  }

  /** Settles once no round is under way. */
  async idle(): Promise<void> {
    while (this.#round) await this.#round;
  }

  /**
   * Counts `bytes` as used if they fit, after an eviction if need be; {@link written} follows. False if there is no
   * room to be had.
   */
  async reserve(bytes: number): Promise<boolean> {
    if (performance.now() < this.#futileUntil && !this.#fits(bytes)) return false;
    const stale = performance.now() - this.#scannedAt > RESCAN_MS;
    if (stale || this.#used + bytes > this.#high || this.#free - bytes < this.#options.minFree)
      void this.evict(bytes);
    const freedBefore = this.#freed;
    // The first round may have begun, and counted, before others took what it made room for.
    for (let round = 0; round < 2 && !this.#fits(bytes); round++) await this.evict(bytes);
    if (!this.#fits(bytes)) {
      if (this.#freed === freedBefore) this.#futileUntil = performance.now() + FUTILE_REST_MS;
      return false;
    }
    this.#used += bytes;
    this.#sinceScan += bytes;
    this.#unwritten += bytes;
    this.#free -= bytes;
    return true;
  }

  /** What was reserved is written, or will not be. */
  written(bytes: number): void {
    this.#unwritten -= bytes;
  }

  #fits(bytes: number): boolean {
    return this.#used + bytes <= this.#options.capacity && this.#free - bytes >= this.#options.minFree;
  }

  /** Asks the file system, and evicts if it has to be. One round at a time: a call during a round waits for it. Never rejects. */
  evict(incoming = 0): Promise<void> {
    this.#round ??= this.#runRound(incoming)
      .catch((error: unknown) => {
        this.#options.log.warn({ err: error }, 'Eviction from the cache failed');
      })
      .finally(() => (this.#round = undefined));
    return this.#round;
  }

  async #runRound(incoming: number): Promise<void> {
    const { minFree, log, onEvicted } = this.#options;
    const closed = await this.#scan();
    let need = this.#free - incoming < minFree ? minFree - (this.#free - incoming) : 0;
    if (this.#used + incoming > this.#high) need = Math.max(need, this.#used + incoming - this.#low);
    if (need <= 0) return;
    const freed = await this.#makeRoom(need, closed);
    this.#used -= freed;
    this.#free += freed;
    this.#freed += freed;
    onEvicted(freed);
    log.info(
      { neededBytes: Math.ceil(need), freedBytes: freed, usedBytes: this.#used },
      'Evicted from the cache',
    );
  }

  /** Returns the blobs that this process does not have open. */
  async #scan(): Promise<ClosedBlob[]> {
    const { dir, isOpen } = this.#options;
    const closed: ClosedBlob[] = [];
    let used = 0;
    this.#sinceScan = this.#unwritten;
    this.#scans++;
    for await (const entry of await opendir(dir)) {
      if (!isCacheKey(entry.name)) continue;
      const path = join(dir, entry.name);
      try {
        const data = await stat(path);
        const bytes = data.blocks * 512;
        used += bytes;
        if (isOpen(entry.name)) continue;
        const sidecar = await stat(sidecarPath(path)).catch(() => data);
        closed.push({ key: entry.name, path, bytes, lastUse: Math.floor(sidecar.mtimeMs / 1000) });
      } catch (error) {
        // Removed by another process since it was listed.
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      }
    }
    const disk = await statfs(dir);
    this.#used = used + this.#sinceScan;
    this.#free = disk.bavail * disk.bsize;
    this.#scannedAt = performance.now();
    return closed;
  }

  async #makeRoom(need: number, closed: readonly ClosedBlob[]): Promise<number> {
    const files = this.#holes ? this.#options.openFiles().filter((file) => file.tryExclusive()) : [];
    try {
      const now = this.#options.now();
      for (const file of files) file.ageUnits(now);
      const choice = choose(need, now, files, closed);
      let freed = 0;
      for (const { blob, bytes } of choice.closed) freed += await this.#shrink(blob, bytes);
      const evicted = await Promise.allSettled(
        choice.open.map(({ file, units }) => file.evict(units, () => this.#grace())),
      );
      for (const result of evicted) {
        if (result.status === 'fulfilled') freed += result.value;
        else
          this.#options.log.warn(
            { err: result.reason as unknown },
            'Space of evicted units is not given back yet',
          );
      }
      return freed;
    } finally {
      for (const file of files) file.share();
    }
  }

  /** @throws CacheError if the workers do not answer: one is stuck, or they have ended. */
  async #grace(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const tooLong = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(
          new CacheError('OBD_CACHE_IO', `I/O workers did not finish their reads in ${GRACE_TIMEOUT_MS} ms`),
        );
      }, GRACE_TIMEOUT_MS);
    });
    try {
      await Promise.race([this.#options.quiesce(), tooLong]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Takes `bytes` or more from a blob that nobody has open; all of it, if that is about what it has. */
  async #shrink(blob: ClosedBlob, bytes: number): Promise<number> {
    // It may have been opened since the scan.
    if (this.#options.isOpen(blob.key)) return 0;
    const partly = this.#holes && bytes < blob.bytes;
    const sidecar = partly ? await Sidecar.open(sidecarPath(blob.path)) : undefined;
    if (!sidecar) return (await removeUnitFile(blob.path)) ? blob.bytes : 0;
    const { blobSize, unitSize } = sidecar.header;
    await sidecar.close();
    const file = await openUnitFile(blob.path, { size: blobSize, unitSize, lockTimeoutMs: 0 }).catch(
      () => undefined,
    );
    if (!file) return 0;
    const lastUse = new Date(file.lastUse(0) * 1000);
    try {
      if (!file.tryExclusive()) return 0;
      const units: number[] = [];
      let chosen = 0;
      for (let unit = 0; unit < file.unitCount && chosen < bytes; unit++)
        if (file.has(unit)) {
          units.push(unit);
          chosen += file.unitLength(unit);
        }
      return await file.evict(units, async () => undefined);
    } finally {
      await file.close(lastUse);
    }
  }
}

/** The file system is asked this often while the cache is being filled: other processes may fill it too. */
const RESCAN_MS = 10_000;

const ORPHAN_AGE_MS = 3_600_000;

/** Looking through a directory for nothing costs more than reading from the source. */
const FUTILE_REST_MS = 1000;

/** A worker passes its loop within milliseconds, a read of a bad disk may take seconds. */
const GRACE_TIMEOUT_MS = 30_000;

/** What an {@link Evictor} works with. */
export interface EvictorOptions {
  readonly dir: string;
  /** Most bytes on disk. */
  readonly capacity: number;
  /** Bytes of the file system to leave free. */
  readonly minFree: number;
  readonly log: Logger;
  /** Seconds since 1970. */
  readonly now: () => number;
  /** Files of this directory that this process has open. */
  readonly openFiles: () => readonly UnitFile[];
  readonly isOpen: (key: string) => boolean;
  /** Settles once no I/O worker still uses what it looked up in a presence map before the call. */
  readonly quiesce: () => Promise<void>;
  readonly onEvicted: (bytes: number) => void;
}

interface ClosedBlob {
  readonly key: string;
  readonly path: string;
  readonly bytes: number;
  readonly lastUse: number;
}

interface Choice {
  readonly open: { readonly file: UnitFile; readonly units: number[] }[];
  readonly closed: { readonly blob: ClosedBlob; readonly bytes: number }[];
}

/** Ages differ by 1 % from bucket to bucket: as exact as need be, and no sorting of millions of units. */
const BUCKETS_PER_DOUBLING = 64;
const BUCKETS = 33 * BUCKETS_PER_DOUBLING;

function bucketOf(lastUse: number, now: number): number {
  return Math.floor(Math.log2(Math.max(0, now - lastUse) + 1) * BUCKETS_PER_DOUBLING);
}

/** Picks at least `need` bytes, least recently used first, or all there is. Cost: two passes over the units. */
function choose(need: number, now: number, open: readonly UnitFile[], closed: readonly ClosedBlob[]): Choice {
  const bytesByAge = new Float64Array(BUCKETS);
  const add = (lastUse: number, bytes: number): void => {
    const bucket = bucketOf(lastUse, now);
    bytesByAge[bucket] = (bytesByAge[bucket] ?? 0) + bytes;
  };
  for (const blob of closed) add(blob.lastUse, blob.bytes);
  for (const file of open) {
    need -= file.strayBytes;
    for (let unit = 0; unit < file.unitCount; unit++)
      if (file.has(unit)) add(file.lastUse(unit), file.unitLength(unit));
  }

  // Everything older than the cut goes; of the bucket at the cut, as much as is still needed.
  let cut = BUCKETS - 1;
  let older = 0;
  while (cut > 0 && older + (bytesByAge[cut] ?? 0) < need) older += bytesByAge[cut--] ?? 0;
  let rest = need - older;
  const takes = (lastUse: number, bytes: number): boolean => {
    const bucket = bucketOf(lastUse, now);
    if (bucket !== cut) return bucket > cut;
    if (rest <= 0) return false;
    rest -= bytes;
    return true;
  };
  const choice: Choice = { open: [], closed: [] };
  for (const blob of closed) {
    const wanted = bucketOf(blob.lastUse, now) > cut ? blob.bytes : Math.min(blob.bytes, rest);
    if (takes(blob.lastUse, blob.bytes)) choice.closed.push({ blob, bytes: wanted });
  }
  for (const file of open) {
    const units: number[] = [];
    for (let unit = 0; unit < file.unitCount; unit++)
      if (file.has(unit) && takes(file.lastUse(unit), file.unitLength(unit))) units.push(unit);
    if (units.length > 0 || file.strayBytes > 0) choice.open.push({ file, units });
  }
  return choice;
}
