import { rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { FileLock, lockFile, punchHole } from '../native/index.js';
import { Gate, Readers } from './gate.js';
import { sidecarPath, syncDirectory, type Sidecar } from './sidecar.js';
import { unitRuns } from './unit-runs.js';

/**
 * One blob's file in the cache: a sparse data file in which byte x is byte x of the blob, and a sidecar that says
 * which units of it can be believed.
 *
 * A unit's life, with the order that makes a crash harmless:
 *
 *   absent ──write: pwrite──► in memory ──commit: fdatasync, then the sidecar's byte──► durable
 *      ▲                          │                                                        │
 *      └── drop / evict: byte in memory, then byte in the sidecar + fdatasync ◄────────────┘
 *
 * Memory may say more than the disk does (a crash then forgets some units), never less. Space is given back (holes)
 * only after the sidecar's zero is durable and after everybody who saw the unit present has finished reading it.
 *
 * Locks: every open holds the data file's shared lock, so that many processes may fill one blob. Whoever makes the
 * blob anew, or gives space back, holds the exclusive lock: then nobody else has the blob open. Conversions never wait.
 */
export class UnitFile {
  readonly path: string;
  readonly size: number;
  readonly unitSize: number;
  readonly unitCount: number;
  /** One byte per unit, 1 = present; shared memory. Written by this class only. */
  readonly presence: Uint8Array;
  /** One byte per unit, set to 1 by readers, cleared by {@link ageUnits}; shared memory. */
  readonly touched: Uint8Array;
  /** When each unit was last known to be used, in the caller's clock. */
  readonly #lastUse: Uint32Array;
  readonly #data: FileHandle;
  readonly #sidecar: Sidecar;
  #presentCount = 0;
  #verified = false;
  /** Units in memory whose sidecar byte is not written yet. */
  #dirty = new Set<number>();
  #committing: Set<number> | undefined;
  /** Absent units that still take space: dropped and not yet written again, or evicted and not yet punched. */
  readonly #unpunched = new Set<number>();
  #commit: Promise<void> | undefined;
  readonly #readers = new Readers();
  /** Writers pass; who takes units away is alone. */
  readonly #gate = new Gate();
  #drops = 0;
  #exclusive = false;
  #promoted = false;

  /**
   * Use {@link openUnitFile}. Owns both handles from here on.
   * @param lastUse the clock's time at which the units found present count as last used.
   */
  private constructor(path: string, data: FileHandle, sidecar: Sidecar, lastUse: number) {
    this.path = path;
    this.#data = data;
    this.#sidecar = sidecar;
    this.size = sidecar.header.blobSize;
    this.unitSize = sidecar.header.unitSize;
    this.unitCount = sidecar.unitCount;
    this.presence = new Uint8Array(new SharedArrayBuffer(this.unitCount));
    this.touched = new Uint8Array(new SharedArrayBuffer(this.unitCount));
    this.#lastUse = new Uint32Array(this.unitCount).fill(lastUse);
  }

  /** Takes over an open data file, locked, and its sidecar, and believes what the sidecar says. */
  static async load(path: string, data: FileHandle, sidecar: Sidecar): Promise<UnitFile> {
    const file = new UnitFile(path, data, sidecar, Math.floor((await sidecar.lastUse()).getTime() / 1000));
    const bytes = Buffer.alloc(file.unitCount);
    await sidecar.read(0, bytes);
    for (let unit = 0; unit < bytes.length; unit++) if (bytes[unit] === 1) file.#mark(unit);
    file.#verified = file.complete && (await sidecar.readVerified());
    return file;
  }

  /** Descriptor of the data file; valid until {@link close}. */
  get fd(): number {
    return this.#data.fd;
  }

  get presentCount(): number {
    return this.#presentCount;
  }

  get complete(): boolean {
    return this.#presentCount === this.unitCount;
  }

  /** True if the digest of the complete file was checked and nothing was dropped since. */
  get verified(): boolean {
    return this.#verified;
  }

  /** Grows when a unit is dropped or evicted: what was found out about the whole file before no longer holds. */
  get drops(): number {
    return this.#drops;
  }

  get dirtyCount(): number {
    return this.#dirty.size + (this.#committing?.size ?? 0);
  }

  /** Bytes of absent units that still take space; {@link evict} gives them back. */
  get strayBytes(): number {
    return this.#unpunched.size * this.unitSize;
  }

  /**
   * Most bytes that a {@link write} called now, in the same turn of the event loop, takes from the file system: it
   * overwrites what dropped units left, unless their space is just being given back.
   */
  newBytes(first: number, length: number): number {
    let bytes = 0;
    const end = first + Math.ceil(length / this.unitSize);
    for (let unit = first; unit < end; unit++)
      if (this.presence[unit] === 0 && (this.#gate.closed || !this.#unpunched.has(unit)))
        bytes += this.unitLength(unit);
    return bytes;
  }

  /** Bytes of a unit: the last may be short. */
  unitLength(unit: number): number {
    return Math.min(this.unitSize, this.size - unit * this.unitSize);
  }

  has(unit: number): boolean {
    return this.presence[unit] === 1;
  }

  lastUse(unit: number): number {
    return this.#lastUse[unit] ?? 0;
  }

  #mark(unit: number): void {
    // Atomics: the bytes were written before, and a worker that sees the 1 sees them.
    if (Atomics.exchange(this.presence, unit, 1) === 0) this.#presentCount++;
  }

  /**
   * Reads bytes of units that were present when the read began; they stay readable until it ends. False if not all
   * are present now, or the file is shorter than it was.
   * @param touch whether the read counts as use of the units.
   */
  async read(offset: number, into: Uint8Array, touch = true): Promise<boolean> {
    const last = Math.floor((offset + into.byteLength - 1) / this.unitSize);
    for (let unit = Math.floor(offset / this.unitSize); unit <= last; unit++) {
      if (this.presence[unit] !== 1) return false;
      if (touch) this.touched[unit] = 1;
    }
    const era = this.#readers.enter();
    try {
      let done = 0;
      while (done < into.byteLength) {
        const { bytesRead } = await this.#data.read(into, done, into.byteLength - done, offset + done);
        if (bytesRead === 0) return false;
        done += bytesRead;
      }
      return true;
    } finally {
      this.#readers.leave(era);
    }
  }

  /** Stores whole units from `first` on, and makes them present in memory. Overlapping writes store equal bytes. */
  async write(first: number, bytes: Uint8Array, now: number): Promise<void> {
    await this.#gate.pass(async () => {
      if (this.#promoted) return;
      const offset = first * this.unitSize;
      const count = Math.ceil(bytes.byteLength / this.unitSize);
      try {
        for (let done = 0; done < bytes.byteLength;) {
          const left = bytes.byteLength - done;
          done += (await this.#data.write(bytes, done, left, offset + done)).bytesWritten;
        }
      } catch (error) {
        // Part of it may be on disk.
        for (let unit = first; unit < first + count; unit++) if (!this.has(unit)) this.#unpunched.add(unit);
        throw error;
      }
      for (let unit = first; unit < first + count; unit++) {
        this.#lastUse[unit] = now;
        this.#dirty.add(unit);
        this.#unpunched.delete(unit);
        this.#mark(unit);
      }
    });
  }

  /**
   * Looks which units of [first, first + count) other processes have filled meanwhile. Not while units are being taken
   * away here: the sidecar may still say what memory no longer does. Synchronous: a few bytes that the kernel has in
   * memory, and misses asked for in one turn of the event loop stay together.
   */
  notice(first: number, count: number, now: number): void {
    if (this.#gate.closed) return;
    const bytes = Buffer.alloc(count);
    this.#sidecar.readSync(first, bytes);
    for (let i = 0; i < count; i++)
      if (bytes[i] === 1 && this.presence[first + i] === 0) {
        this.#lastUse[first + i] = now;
        this.#mark(first + i);
      }
  }

  /**
   * Makes every unit present now durable: data first, then its bytes in the sidecar. One at a time; a call while one
   * runs waits for it and goes again. If the disk fails, the units that were to be committed are dropped.
   */
  async commit(): Promise<void> {
    while (this.#commit) await this.#commit.catch(() => undefined);
    if (this.#dirty.size === 0) return;
    this.#commit = this.#commitOnce().finally(() => (this.#commit = undefined));
    await this.#commit;
  }

  async #commitOnce(): Promise<void> {
    const units = (this.#committing = this.#dirty);
    this.#dirty = new Set();
    try {
      await this.#data.datasync();
      for (const [first, count] of unitRuns(units)) await this.#sidecar.write(first, count, 1);
    } catch (error) {
      // After a failed fdatasync nobody knows what the page cache holds.
      for (const unit of units) this.#forget(unit);
      throw error;
    } finally {
      this.#committing = undefined;
    }
  }

  #forget(unit: number): void {
    this.#drops++;
    this.#verified = false;
    this.#dirty.delete(unit);
    this.#committing?.delete(unit);
    if (Atomics.exchange(this.presence, unit, 0) === 0) return;
    this.#presentCount--;
    this.#unpunched.add(unit);
  }

  /** Makes units absent, durably. Their bytes stay on disk until they are written again; writes wait meanwhile. */
  async drop(units: readonly number[]): Promise<void> {
    await this.#gate.alone(() => this.#drop(units));
  }

  async #drop(units: readonly number[]): Promise<void> {
    if (units.length === 0) return;
    const wasVerified = this.#verified;
    for (const unit of units) this.#forget(unit);
    // A commit under way may be about to write a 1 for one of them.
    await this.#commit?.catch(() => undefined);
    if (wasVerified) await this.#sidecar.writeVerified(false);
    for (const [first, count] of unitRuns(units)) await this.#sidecar.write(first, count, 0);
    await this.#sidecar.sync();
  }

  /** Takes the exclusive lock if nobody else has the blob open. Never waits. */
  tryExclusive(): boolean {
    return (this.#exclusive ||= lockFile(this.#data.fd, FileLock.EXCLUSIVE));
  }

  /** Back from the exclusive lock to the shared one. */
  share(): void {
    if (this.#exclusive) lockFile(this.#data.fd, FileLock.SHARED);
    this.#exclusive = false;
  }

  /**
   * Takes units away and gives their space back, and that of units dropped before. The caller holds the exclusive lock ({@link tryExclusive}).
   * @param grace settles once no reader outside of this class, who looked at `presence` before the call, still reads.
   *   If it rejects the units are absent all the same, and their space is given back with the next ones.
   * @returns bytes given back; 0 where the file system has no holes.
   */
  async evict(units: readonly number[], grace: () => Promise<void>): Promise<number> {
    if (!this.#exclusive) throw new TypeError('UnitFile.evict() without the exclusive lock');
    return this.#gate.alone(async () => {
      await this.#drop(units);
      for (const unit of units) this.#unpunched.add(unit);
      await grace();
      await this.#readers.gone();
      let freed = 0;
      for (const [first, count] of unitRuns(this.#unpunched)) {
        const offset = first * this.unitSize;
        const length = Math.min(offset + count * this.unitSize, this.size) - offset;
        if (await punchHole(this.#data.fd, offset, length)) freed += length;
      }
      this.#unpunched.clear();
      return freed;
    });
  }

  /**
   * Makes the complete file durable, takes its sidecar away and gives it another name, under which it is a plain file:
   * nothing may be written to it any more ({@link promoted}).
   */
  async promote(target: string): Promise<void> {
    await this.commit();
    await this.#gate.alone(async () => {
      if (!this.complete) throw new TypeError('UnitFile.promote() of an incomplete file');
      await this.#data.chmod(0o644);
      await this.#data.sync();
      await rm(sidecarPath(this.path), { force: true });
      await rename(this.path, target);
      await syncDirectory(dirname(target));
      this.#promoted = true;
    });
  }

  /** True after {@link promote}: reads go on, writes are over. */
  get promoted(): boolean {
    return this.#promoted;
  }

  /** Turns "touched since the last call" into "last used now". Called before units are chosen for eviction. */
  ageUnits(now: number): void {
    for (let unit = 0; unit < this.unitCount; unit++)
      if (this.touched[unit] === 1) {
        this.touched[unit] = 0;
        this.#lastUse[unit] = now;
      }
  }

  /** Remembers durably that the digest was checked. The file is complete. No effect if `drops` has moved on. */
  async markVerified(drops: number): Promise<void> {
    await this.commit();
    if (drops !== this.#drops || !this.complete) return;
    this.#verified = true;
    await this.#sidecar.writeVerified(true);
  }

  /** Commits, stamps the time of last use and closes. The caller has seen all reads and writes end. */
  async close(lastUse: Date): Promise<void> {
    try {
      await this.commit();
      await this.#sidecar.sync();
      await this.#sidecar.touch(lastUse);
    } finally {
      await this.#sidecar.close();
      await this.#data.close();
    }
  }
}
