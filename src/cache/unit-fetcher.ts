import { abortedError, FormatError, type ReadCause, type ReadOptions } from '../blob/index.js';
import type { ByteBudget } from './byte-budget.js';

/**
 * Misses of one blob become reads of its source.
 *
 * A miss waits for one turn of the event loop, so that neighbours asked for at the same time join it; units next to
 * each other become one read of at most `maxRunBytes`. While `maxRuns` reads are under way misses wait, the oldest goes
 * first, and takes waiting neighbours along: the busier the source, the larger the reads. A unit that is on its way is
 * not asked for again: whoever wants it waits for the same read. A read is given up only when everybody who waited for any of its units has gone away.
 * Nothing is fetched that nobody asked for, beyond the rest of a unit. Units asked for in the background come after those
 * that somebody waits for, and leave a few reads of the source free for them.
 *
 *   asked ─(next turn)─► read of a run ─► check of each unit ─► waiters have the bytes ─► kept (stored) ─► forgotten
 *                                           └─ bad: read that unit again, once
 */
export class UnitFetcher {
  readonly #options: UnitFetcherOptions;
  /** Units asked for and not yet kept. */
  readonly #pending = new Map<number, PendingUnit>();
  /** Those of them that no read has been begun for, the oldest first. */
  readonly #asked = new Map<number, PendingUnit>();
  #scheduled = false;
  /** Reads of the source under way; `#runs` are also those that are being kept. */
  #reading = 0;
  #check: UnitCheck | undefined;
  #idle: (() => void) | undefined;
  readonly #runs = new Set<Promise<void>>();

  constructor(options: UnitFetcherOptions) {
    this.#options = options;
  }

  /** Sets what is looked at before a unit is given out; undefined for nothing. */
  set check(check: UnitCheck | undefined) {
    this.#check = check;
  }

  /**
   * The bytes of some units, in their order. They belong to the fetcher and are not to be changed.
   * @throws what the source throws, what the check throws, or OBD_ABORTED.
   */
  async fetch(units: readonly number[], source: UnitSource, options: FetchOptions): Promise<Uint8Array[]> {
    if (options.fresh === true && this.isRunning(units)) await this.settled();
    for (let attempt = 0; ; attempt++) {
      const wanted = units.map((unit) => this.#ask(unit, source, options));
      try {
        return await this.#wait(wanted, options.signal);
      } catch (error) {
        // Somebody else's source failed (it may lack our credentials): try our own.
        const foreign = wanted.some((unit) => unit.failed && unit.source !== source);
        if (!foreign || attempt > 0 || options.signal?.aborted === true) throw error;
      }
    }
  }

  /** Settles once what is on its way now is kept, or has failed. */
  async settled(): Promise<void> {
    await Promise.all(this.#runs);
  }

  /** Settles once nothing is on its way and all that was fetched is kept. */
  async idle(): Promise<void> {
    while (this.#runs.size > 0 || this.#pending.size > 0)
      await new Promise<void>((resolve) => {
        const before = this.#idle;
        this.#idle = () => {
          before?.();
          resolve();
        };
      });
  }

  /** Whether the source is being read for one of these units: what it gives will be stored. */
  isRunning(units: readonly number[]): boolean {
    return units.some((unit) => this.#pending.get(unit)?.run !== undefined);
  }

  #ask(unit: number, source: UnitSource, { keep, cause = 'read', fresh = false }: FetchOptions): PendingUnit {
    let pending = this.#pending.get(unit);
    if (!pending) {
      pending = new PendingUnit(unit, source, cause);
      this.#pending.set(unit, pending);
      this.#asked.set(unit, pending);
      this.#schedule();
    }
    pending.keep ||= keep;
    pending.fresh ||= fresh;
    if (cause !== 'prefetch' && pending.cause === 'prefetch') {
      pending.cause = cause;
      // It may be held back for those whom somebody waits for, and is one of them now.
      if (this.#asked.has(unit)) this.#schedule();
    }
    if (cause === 'read') pending.cause = cause;
    pending.waiters++;
    return pending;
  }

  async #wait(wanted: readonly PendingUnit[], signal: AbortSignal | undefined): Promise<Uint8Array[]> {
    try {
      return await untilAborted(
        Promise.all(wanted.map((unit) => unit.bytes)),
        `read of "${this.#options.name}"`,
        signal,
      );
    } finally {
      for (const unit of wanted) if (--unit.waiters === 0 && !unit.settled) this.#abandoned(unit);
    }
  }

  /** The last waiter has gone before the bytes came. */
  #abandoned(unit: PendingUnit): void {
    if (unit.run === undefined) {
      this.#asked.delete(unit.unit);
      this.#forget(unit);
    } else if (unit.run.units.every((other) => other.waiters === 0)) {
      for (const other of unit.run.units) this.#forget(other);
      unit.run.controller.abort();
    }
  }

  #forget(unit: PendingUnit): void {
    if (this.#pending.get(unit.unit) === unit) this.#pending.delete(unit.unit);
    if (this.#runs.size === 0 && this.#pending.size === 0) this.#idle?.();
  }

  /** Forgotten first: whoever hears of the failure and asks again starts anew. */
  #fail(unit: PendingUnit, error: unknown): void {
    this.#forget(unit);
    unit.reject(error);
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#startRuns();
    });
  }

  #startRuns(): void {
    const most = Math.max(1, Math.floor(this.#options.maxRunBytes / this.#options.unitSize));
    this.#startRunsOf(false, this.#options.maxRuns, most);
    this.#startRunsOf(true, Math.max(1, this.#options.maxRuns - RESERVED_RUNS), most);
  }

  #startRunsOf(background: boolean, maxRuns: number, most: number): void {
    for (const [oldest, asked] of this.#asked) {
      if (this.#reading >= maxRuns) return;
      if ((asked.cause === 'prefetch') !== background) continue;
      const { source } = asked;
      const joins = (unit: number): boolean => {
        const other = this.#asked.get(unit);
        return other?.source === source && (other.cause === 'prefetch') === background;
      };
      let first = oldest;
      let end = oldest + 1;
      // Forward first: readers mostly go that way.
      while (end - first < most && joins(end)) end++;
      while (end - first < most && joins(first - 1)) first--;
      const units: PendingUnit[] = [];
      for (let unit = first; unit < end; unit++) {
        const pending = this.#asked.get(unit);
        if (pending) units.push(pending);
        this.#asked.delete(unit);
      }
      this.#reading++;
      const running = this.#fetchRun({ units, controller: new AbortController() }, source).finally(() => {
        this.#runs.delete(running);
        for (const unit of units) this.#forget(unit);
      });
      this.#runs.add(running);
    }
  }

  /** Never rejects: failures go to the waiters. */
  async #fetchRun(run: Run, source: UnitSource): Promise<void> {
    for (const unit of run.units) unit.run = run;
    const { memory, unitSize } = this.#options;
    const start = (run.units[0]?.unit ?? 0) * unitSize;
    const length = Math.min(run.units.length * unitSize, this.#options.size - start);
    let reading = true;
    const readingDone = (): void => {
      if (reading) this.#reading--;
      reading = false;
      if (this.#asked.size > 0) this.#schedule();
    };
    await memory.acquire(length);
    try {
      run.controller.signal.throwIfAborted();
      // Slow: not a piece of Node's shared pool, which it would keep alive.
      const bytes = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
      await source.read(start, bytes, {
        signal: run.controller.signal,
        cause: causeOf(run),
        fresh: run.units.some(({ fresh }) => fresh),
      });
      await Promise.all(
        run.units.map(async (unit, i) => {
          const own = bytes.subarray(i * unitSize, Math.min((i + 1) * unitSize, length));
          try {
            await this.#checkUnit(unit.unit, own, source, run.controller.signal);
            unit.resolve(own);
          } catch (error) {
            this.#fail(unit, error);
          }
        }),
      );
      readingDone();
      await this.#keep(run, bytes);
    } catch (error) {
      for (const unit of run.units) this.#fail(unit, error);
    } finally {
      readingDone();
      memory.release(length);
    }
  }

  async #checkUnit(unit: number, bytes: Uint8Array, source: UnitSource, signal: AbortSignal): Promise<void> {
    const check = this.#check;
    if (!check) return;
    const start = unit * this.#options.unitSize;
    try {
      check(start, bytes);
    } catch (error) {
      this.#options.onBadUnit(unit, error);
      await source.read(start, bytes, { signal, fresh: true });
      try {
        check(start, bytes);
      } catch (again) {
        if (again instanceof FormatError) throw again;
        throw new FormatError(
          'OBD_FORMAT_CHECKSUM',
          `Cannot use bytes [${start}, ${start + bytes.byteLength}) of "${this.#options.name}": their check failed twice`,
          { source: this.#options.name, offset: start, cause: again },
        );
      }
    }
  }

  /** Stores the good units, neighbours together. */
  async #keep(run: Run, bytes: Uint8Array): Promise<void> {
    const { unitSize } = this.#options;
    const good = (unit: PendingUnit | undefined): boolean => unit !== undefined && unit.keep && !unit.failed;
    for (let i = 0; i < run.units.length;) {
      let end = i;
      while (good(run.units[end])) end++;
      const first = run.units[i];
      if (end > i && first)
        await this.#options.keep(
          first.unit,
          bytes.subarray(i * unitSize, Math.min(end * unitSize, bytes.length)),
        );
      i = end + 1;
    }
  }
}

/** The work's outcome, or OBD_ABORTED as soon as `signal` says so; the work goes on then. */
export async function untilAborted<T>(
  work: Promise<T>,
  action: string,
  signal: AbortSignal | undefined,
): Promise<T> {
  if (!signal) return work;
  let giveUp = (): void => undefined;
  try {
    return await Promise.race([
      work,
      new Promise<never>((_, reject) => {
        giveUp = () => {
          reject(abortedError(action, signal));
        };
        if (signal.aborted) giveUp();
        else signal.addEventListener('abort', giveUp, { once: true });
      }),
    ]);
  } finally {
    signal.removeEventListener('abort', giveUp);
  }
}

/** What units come from; a {@link ReadableBlob} is one. The same object means the same source. */
export interface UnitSource {
  read(offset: number, into: Uint8Array, options?: SourceReadOptions): Promise<void>;
}

/** How a source is read. */
export interface SourceReadOptions extends ReadOptions {
  /** What was read before is damaged: not from a copy whose digest nobody has checked. Default false. */
  readonly fresh?: boolean;
}

/**
 * Looks at a unit before it is believed: throws if what can be checked inside it does not hold (a FormatError with the
 * offset). `start` is the offset of `bytes` in the blob. Synchronous; may not keep or change the bytes.
 */
export type UnitCheck = (start: number, bytes: Uint8Array) => void;

/** What a {@link UnitFetcher} works with. */
export interface UnitFetcherOptions {
  /** For errors. */
  readonly name: string;
  readonly size: number;
  readonly unitSize: number;
  /** Most bytes of one read of the source; at least one unit is read. */
  readonly maxRunBytes: number;
  /** Most reads of the source at once. */
  readonly maxRuns: number;
  /** Bounds the bytes on their way and not yet kept, together with other fetchers. */
  readonly memory: ByteBudget;
  /** Takes units, from `first` on, into the cache. Never rejects. `bytes` is the fetcher's again when it settles. */
  readonly keep: (first: number, bytes: Uint8Array) => Promise<void>;
  /** A unit failed its check and is being fetched again. */
  readonly onBadUnit: (unit: number, error: unknown) => void;
}

/** A read that somebody waits for is one, whoever else wanted some of its units. */
function causeOf({ units }: Run): ReadCause {
  return units.some(({ cause }) => cause === 'read') ? 'read' : (units[0]?.cause ?? 'read');
}

/** How units are asked for. */
export interface FetchOptions {
  readonly signal?: AbortSignal;
  /** Whether to store them. */
  readonly keep: boolean;
  /** Default `read`. For `prefetch` nobody waits yet: whoever does goes first. */
  readonly cause?: ReadCause;
  /** See {@link SourceReadOptions}. Waits for what is on its way now. */
  readonly fresh?: boolean;
}

/** Reads of a source that are kept free for units that somebody waits for. */
const RESERVED_RUNS = 2;

interface Run {
  readonly units: readonly PendingUnit[];
  readonly controller: AbortController;
}

class PendingUnit {
  readonly unit: number;
  readonly source: UnitSource;
  readonly bytes: Promise<Uint8Array>;
  readonly resolve: (bytes: Uint8Array) => void;
  readonly reject: (error: unknown) => void;
  cause: ReadCause;
  keep = false;
  fresh = false;
  waiters = 0;
  settled = false;
  failed = false;
  run: Run | undefined;

  constructor(unit: number, source: UnitSource, cause: ReadCause) {
    this.unit = unit;
    this.cause = cause;
    this.source = source;
    let resolve: (bytes: Uint8Array) => void = () => undefined;
    let reject: (error: unknown) => void = () => undefined;
    this.bytes = new Promise((yes, no) => {
      resolve = yes;
      reject = no;
    });
    // Everybody who waited may have gone.
    this.bytes.catch(() => undefined);
    this.resolve = (bytes) => {
      this.settled = true;
      resolve(bytes);
    };
    this.reject = (error) => {
      if (!this.settled) this.failed = true;
      this.settled = true;
      reject(error);
    };
  }
}
