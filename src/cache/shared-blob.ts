import { RegistryError, type OverlaybdError, type ReadOptions } from '../blob/index.js';
import { UnitFetcher, untilAborted, type UnitCheck, type UnitSource } from './unit-fetcher.js';
import type { CacheServices } from './cache-services.js';
import { CountedSources } from './counted-sources.js';
import { Foretold } from './foretold.js';
import { Refetches } from './refetches.js';
import type { UnitFile } from './unit-file.js';

/** Most bytes of one read that are looked up, fetched and copied at a time; bounds the memory of one huge read. */
const WINDOW = 4 << 20;

/**
 * One blob as the whole process sees it: its file, what is on its way, and what is known about its health. Handles
 * ({@link CachedBlob}) read through it, each with its own source.
 */
export class SharedBlob {
  readonly key: string;
  readonly size: number;
  /** `sha256:<hex>` to check the complete blob against; undefined if the key says nothing about the bytes. */
  readonly digest: string | undefined;
  /** Undefined where the disk did not give one: then nothing is kept but a few units in memory. */
  readonly file: UnitFile | undefined;
  readonly unitSize: number;
  readonly #services: CacheServices;
  readonly #fetcher: UnitFetcher;
  readonly #refetches = new Refetches();
  /** Set once the source has given wrong bytes twice; every read then fails. */
  #condemned: OverlaybdError | undefined;
  #mismatches = 0;
  readonly #foretold: Foretold;
  readonly #sources: CountedSources;
  #reading = 0;
  #idle: (() => void) | undefined;

  constructor(
    identity: {
      readonly key: string;
      readonly size: number;
      readonly unitSize: number;
      readonly digest: string | undefined;
    },
    file: UnitFile | undefined,
    services: CacheServices,
  ) {
    this.key = identity.key;
    this.size = identity.size;
    this.digest = identity.digest;
    this.file = file;
    this.unitSize = file?.unitSize ?? identity.unitSize;
    this.#services = services;
    this.#sources = new CountedSources(services.counters);
    this.#foretold = new Foretold(this.size, this.unitSize, services.missSize);
    this.#fetcher = new UnitFetcher({
      name: this.key,
      size: this.size,
      unitSize: this.unitSize,
      maxRunBytes: services.maxRunBytes,
      maxRuns: services.maxRuns,
      memory: services.memory,
      keep: (first, bytes) => this.#keep(first, bytes),
      onBadUnit: (unit, error) => {
        services.counters.badUnits++;
        services.log.warn(
          { digest: this.key, offset: unit * this.unitSize, err: error },
          'Fetched bytes are damaged, fetching them again',
        );
      },
    });
  }

  set check(check: UnitCheck | undefined) {
    this.#fetcher.check = check;
  }

  /** Bytes here now. */
  get presentBytes(): number {
    return this.file ? Math.min(this.file.presentCount * this.unitSize, this.size) : 0;
  }

  /** Fills `into`. The caller has checked the range. */
  async read(
    offset: number,
    into: Uint8Array,
    source: UnitSource,
    options: ReadOptions & { readonly keep: boolean },
  ): Promise<void> {
    if (this.#condemned) throw this.#condemned;
    const { counters } = this.#services;
    counters.reads++;
    counters.readBytes += into.byteLength;
    this.#reading++;
    try {
      let hit = true;
      for (let done = 0; done < into.byteLength;) {
        const length = Math.min(WINDOW, into.byteLength - done);
        const window = into.subarray(done, done + length);
        if (!(await this.#readLocal(offset + done, window))) {
          hit = false;
          await this.#readMixed(offset + done, window, source, options);
        }
        done += length;
      }
      if (hit) counters.hits++;
    } finally {
      if (--this.#reading === 0) this.#idle?.();
    }
  }

  /** From the file alone. False if it has not all of it, or cannot be read: then the units count as absent. */
  async #readLocal(offset: number, into: Uint8Array): Promise<boolean> {
    const { file } = this;
    if (!file) return false;
    const [first, end] = this.#unitsOf(offset, into.byteLength);
    for (let unit = first; unit < end; unit++) if (!file.has(unit)) return false;
    let reason: unknown = 'the file is shorter than the blob';
    try {
      if (await file.read(offset, into)) return true;
    } catch (error) {
      reason = error;
    }
    this.#services.health.warn('Cached bytes cannot be read; fetching them again', {
      digest: this.key,
      offset,
      err: reason,
    });
    await this.#drop(range(first, end));
    return false;
  }

  async #drop(units: readonly number[]): Promise<void> {
    for (const unit of units) this.#services.spill.delete(this.#spillKey(unit));
    try {
      await this.file?.drop(units);
    } catch (error) {
      // Absent in memory; on disk the sidecar may still say present, and whoever opens it next finds the fault anew.
      this.#services.health.failed('drop units', this.file?.path ?? this.key, error);
    }
  }

  /** Present stretches from the file, absent ones from the source, all at once. */
  async #readMixed(
    offset: number,
    into: Uint8Array,
    source: UnitSource,
    options: ReadOptions & { readonly keep: boolean },
  ): Promise<void> {
    const [first, end] = this.#unitsOf(offset, into.byteLength);
    this.#notice(first, end);
    const stretches: Promise<void>[] = [];
    for (let from = first; from < end;) {
      const present = this.file?.has(from) ?? false;
      let to = from + 1;
      while (to < end && (this.file?.has(to) ?? false) === present) to++;
      const start = Math.max(offset, from * this.unitSize);
      const stop = Math.min(offset + into.byteLength, to * this.unitSize);
      const part = into.subarray(start - offset, stop - offset);
      stretches.push(
        present
          ? this.#readLocal(start, part).then((ok) =>
              ok ? undefined : this.#readSource(start, part, source, options),
            )
          : this.#readSource(start, part, source, options),
      );
      from = to;
    }
    // All of them: `into` is the caller's again only when nobody writes to it any more.
    const failed = (await Promise.allSettled(stretches)).find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;
  }

  #notice(first: number, end: number): void {
    try {
      this.file?.notice(first, end - first, this.#services.now());
    } catch (error) {
      this.#services.health.failed('read the sidecar', this.file?.path ?? this.key, error);
    }
  }

  async #readSource(
    offset: number,
    into: Uint8Array,
    source: UnitSource,
    options: ReadOptions & { readonly keep: boolean },
  ): Promise<void> {
    const [first, end] = this.#unitsOf(offset, into.byteLength);
    const units = range(first, end);
    const spilled = units.map((unit) => this.#services.spill.get(this.#spillKey(unit)));
    const missing = units.filter((_, i) => spilled[i] === undefined);
    if (missing.length > 0 && options.keep) this.#fetchAround(first, end, missing, source, options.signal);
    const fetched =
      missing.length === 0 ? [] : await this.#fetcher.fetch(missing, this.#sources.counted(source), options);
    let next = 0;
    units.forEach((unit, i) => {
      const bytes = spilled[i] ?? fetched[next++];
      if (!bytes) throw new TypeError('A unit was asked for and not given');
      const start = unit * this.unitSize;
      const from = Math.max(offset, start);
      const to = Math.min(offset + into.byteLength, start + bytes.byteLength);
      into.set(bytes.subarray(from - start, to - start), from - offset);
    });
  }

  /** Asks for what a miss is to bring besides what was missed. */
  #fetchAround(
    first: number,
    end: number,
    missing: readonly number[],
    source: UnitSource,
    signal: AbortSignal | undefined,
  ): void {
    const around = this.#foretold.around(first, end, missing).filter((unit) => !this.#isHere(unit));
    if (around.length > 0)
      this.#fetcher
        .fetch(around, this.#sources.counted(source), {
          keep: true,
          ...(signal === undefined ? {} : { signal }),
        })
        // Nobody needs them now. Whoever does asks again, and hears of it.
        .catch(() => undefined);
  }

  #isHere(unit: number): boolean {
    return this.file?.has(unit) === true || this.#services.spill.has(this.#spillKey(unit));
  }

  /** Says which units will be read: one byte per unit, 1 = expected. Several such maps add up. */
  expect(units: Uint8Array): void {
    this.#foretold.expect(units);
  }

  /**
   * Fetches what is missing of a range, after everything that somebody waits for. The caller has checked the range.
   * @returns bytes that were not stored here, and are by now fetched.
   */
  async prefetch(
    offset: number,
    length: number,
    source: UnitSource,
    options: { readonly signal?: AbortSignal },
  ): Promise<number> {
    if (this.#condemned) throw this.#condemned;
    const [first, end] = this.#unitsOf(offset, length);
    this.#notice(first, end);
    const missing = range(first, end).filter((unit) => !this.#isHere(unit));
    if (missing.length === 0) return 0;
    this.#reading++;
    try {
      const bytes = await this.#fetcher.fetch(missing, this.#sources.counted(source), {
        ...options,
        keep: true,
        cause: 'prefetch',
      });
      return bytes.reduce((sum, unit) => sum + unit.byteLength, 0);
    } finally {
      if (--this.#reading === 0) this.#idle?.();
    }
  }

  #unitsOf(offset: number, length: number): readonly [first: number, end: number] {
    return [Math.floor(offset / this.unitSize), Math.ceil((offset + length) / this.unitSize)];
  }

  #spillKey(unit: number): string {
    return `${this.key}/${unit}`;
  }

  /** Stores whole units; where the disk does not take them, a few are kept in memory. Never rejects. */
  async #keep(first: number, bytes: Uint8Array): Promise<void> {
    const { health, write, counters, spill } = this.#services;
    if (this.file && !this.file.promoted && health.usable) {
      try {
        if (await write(this.file, first, bytes)) {
          this.#services.wrote(this);
          this.noteComplete();
          return;
        }
        health.warn('Cache is full and nothing can be evicted; reading from the source', {
          digest: this.key,
        });
      } catch (error) {
        health.failed('write', this.file.path, error);
      }
    }
    counters.unstoredBytes += bytes.byteLength;
    for (let at = 0; at < bytes.byteLength; at += this.unitSize)
      // A copy: the whole run would stay in memory for one unit.
      spill.set(this.#spillKey(first + at / this.unitSize), bytes.slice(at, at + this.unitSize));
  }

  /** Tells the services if the blob is complete and its digest has not been checked. */
  noteComplete(): void {
    if (this.digest !== undefined && this.file?.complete === true && !this.file.verified)
      this.#services.completed(this);
  }

  /** Forgets the units that hold a range and fetches them again. The caller has checked the range. */
  async refetch(
    offset: number,
    length: number,
    source: UnitSource,
    options: { readonly signal?: AbortSignal },
  ): Promise<void> {
    if (length === 0) return;
    const [first, end] = this.#unitsOf(offset, length);
    const { all, stale } = this.#refetches.join(range(first, end), (units) =>
      this.#refetchUnits(units, source),
    );
    if (stale > 0) {
      this.#services.counters.badUnits += stale;
      this.#services.log.warn(
        { digest: this.key, offset, length },
        'Cached bytes are damaged, fetching them again',
      );
    }
    // All of it, also after a failure: whoever is told has nothing of this call under way any more.
    const ended = await untilAborted(all, `refetch of "${this.key}"`, options.signal);
    for (const one of ended) if (one.status === 'rejected') throw one.reason;
  }

  async #refetchUnits(units: readonly number[], source: UnitSource): Promise<void> {
    this.#reading++;
    try {
      // What a read stores after the drop would be overwritten where it lies: torn, if the power goes then.
      do {
        if (this.#fetcher.isRunning(units)) await this.#fetcher.settled();
        await this.#drop(units);
      } while (this.#fetcher.isRunning(units));
      await this.#fetcher.fetch(units, this.#sources.counted(source), { keep: true, fresh: true });
    } finally {
      if (--this.#reading === 0) this.#idle?.();
    }
  }

  /** The complete file has another digest: all of it goes, and the second time the blob is given up. */
  async digestMismatch(actual: string): Promise<void> {
    this.#mismatches++;
    const expected = this.digest ?? '';
    this.#services.log.warn(
      { digest: expected, actual, times: this.#mismatches },
      'Cached blob does not have its digest, dropping all of it',
    );
    if (this.file) await this.#drop(range(0, this.file.unitCount));
    if (this.#mismatches > 1)
      this.#condemned = new RegistryError(
        'OBD_REGISTRY_DIGEST',
        `Cannot read blob "${expected}": the source sent bytes with digest "${actual}", twice`,
        {
          source: expected,
          expected,
          actual,
          hint: 'The registry or a proxy before it serves a damaged blob',
        },
      );
  }

  /** Drops all of the local copy. */
  async forget(): Promise<void> {
    this.#refetches.forget();
    await this.#drop(range(0, Math.ceil(this.size / this.unitSize)));
  }

  /** See {@link CachedBlob.promote}. @throws errors of node:fs */
  async promote(target: string): Promise<'promoted' | 'incomplete' | 'damaged'> {
    const { file } = this;
    const mismatches = this.#mismatches;
    await this.stored();
    if (!file?.complete) return 'incomplete';
    this.noteComplete();
    await this.#services.verified();
    if (this.#mismatches !== mismatches) return 'damaged';
    if (!file.verified) return 'incomplete';
    await file.promote(target);
    return 'promoted';
  }

  /** Settles once what is being fetched now is stored. */
  async stored(): Promise<void> {
    await this.#fetcher.settled();
  }

  /** Settles once no read and no fetch is under way. One call at a time. */
  async idle(): Promise<void> {
    while (this.#reading > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
    await this.#fetcher.idle();
  }
}

function range(first: number, end: number): number[] {
  return Array.from({ length: end - first }, (_, i) => first + i);
}
