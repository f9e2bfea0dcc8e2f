/**
 * Many small reads become few large fetches.
 *
 * The blob is divided into units of `unitSize` (the configuration's `refillSize`), the last one shorter. A read needs
 * some units; each missing unit is in exactly one of two states:
 *
 *   waiting ── fewer than `maxFetches` under way ──► in flight ── fetched ──► gone (its readers have copied from it)
 *
 * - A unit is fetched once, however many readers want it meanwhile; nothing is kept afterwards (that is the cache's job).
 * - When a fetch starts, it takes along the waiting neighbours on both sides, up to `maxFetchSize`. Reads issued in one turn
 *   of the event loop therefore share requests, and the busier the source, the larger they get.
 * - A reader that aborts leaves at once; a unit without readers is not fetched, and a fetch without readers is aborted.
 */
import { abortedError, checkRange, type ReadableBlob, type ReadOptions } from '../blob/index.js';

/** Fetches whole units: `count` of them from number `first`; exactly their bytes, in a buffer that is given away. */
export type FetchUnits = (first: number, count: number, signal: AbortSignal) => Promise<Uint8Array>;

/** Bounds, all of one blob. */
export interface CoalescerOptions {
  readonly name: string;
  /** Bytes of the blob. */
  readonly size: number;
  /** Bytes per unit. */
  readonly unitSize: number;
  readonly fetch: FetchUnits;
  /** Most bytes of one fetch, at least one unit. Default 2 MiB: at 100 Mbit/s a sixth of a second. */
  readonly maxFetchSize?: number;
  /** Fetches at once. Default 8; with the size above it bounds memory to 16 MiB a blob. */
  readonly maxFetches?: number;
}

interface Flight {
  readonly controller: AbortController;
  /** Units of it that still have a reader. */
  wanted: number;
}

interface Unit {
  readonly number: number;
  readonly bytes: Promise<Uint8Array>;
  readonly resolve: (bytes: Uint8Array) => void;
  readonly reject: (error: unknown) => void;
  readers: number;
  flight: Flight | undefined;
}

const DEFAULT_MAX_FETCH = 2 * 1024 * 1024;
const DEFAULT_MAX_FETCHES = 8;

/** Shares fetches of units between readers; see the design note. */
export class UnitCoalescer {
  readonly unitSize: number;
  readonly unitCount: number;
  readonly #options: CoalescerOptions;
  readonly #unitsPerFetch: number;
  readonly #maxFetches: number;
  /** Waiting and in flight. Bounded by what readers ask for: each holds the range it wants. */
  readonly #units = new Map<number, Unit>();
  readonly #waiting = new Map<number, Unit>();
  readonly #flights = new Set<Promise<void>>();
  #scheduled = false;

  constructor(options: CoalescerOptions) {
    const { unitSize, size } = options;
    if (!Number.isSafeInteger(unitSize) || unitSize <= 0)
      throw new RangeError(`Unit size ${unitSize} is no positive integer`);
    this.#options = options;
    this.unitSize = unitSize;
    this.unitCount = Math.ceil(size / unitSize);
    this.#unitsPerFetch = Math.max(1, Math.floor((options.maxFetchSize ?? DEFAULT_MAX_FETCH) / unitSize));
    this.#maxFetches = options.maxFetches ?? DEFAULT_MAX_FETCHES;
  }

  /** Bytes of a unit; less than `unitSize` for the last one. */
  lengthOf(unit: number): number {
    return Math.min(this.unitSize, this.#options.size - unit * this.unitSize);
  }

  /**
   * The bytes of one unit, shared: not to be changed. Fetched now, or already on its way for others.
   * Rejects with OBD_ABORTED when the signal fires, whatever becomes of the fetch.
   */
  async load(number: number, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#abortable(signal, (aborted) => this.#load(number, aborted));
  }

  /** Fills `into` from `offset`, unit by unit, with a bounded number of them asked for ahead. The caller has checked the range. */
  async read(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<void> {
    if (into.byteLength === 0) return;
    await this.#abortable(signal, (aborted) => this.#read(offset, into, aborted));
  }

  async #read(offset: number, into: Uint8Array, aborted: Promise<never> | undefined): Promise<void> {
    const first = Math.floor(offset / this.unitSize);
    const last = Math.floor((offset + into.byteLength - 1) / this.unitSize);
    const window = this.#unitsPerFetch * this.#maxFetches;
    for (let start = first; start <= last; start += window) {
      const copies: Promise<void>[] = [];
      for (let number = start; number <= Math.min(last, start + window - 1); number++) {
        copies.push(
          this.#load(number, aborted).then((bytes) => {
            const unitOffset = number * this.unitSize;
            const from = Math.max(offset, unitOffset);
            const to = Math.min(offset + into.byteLength, unitOffset + bytes.byteLength);
            into.set(bytes.subarray(from - unitOffset, to - unitOffset), from - offset);
          }),
        );
      }
      // All of them settle before the first error is thrown: afterwards nobody writes into the caller's buffer.
      for (const copy of await Promise.allSettled(copies)) if (copy.status === 'rejected') throw copy.reason;
    }
  }

  async #load(number: number, aborted: Promise<never> | undefined): Promise<Uint8Array> {
    const unit = this.#join(number);
    try {
      return await (aborted === undefined ? unit.bytes : Promise.race([unit.bytes, aborted]));
    } finally {
      this.#leave(unit);
    }
  }

  /** Runs `work` with a promise that rejects when the signal fires: one listener, however many units. */
  async #abortable<T>(
    signal: AbortSignal | undefined,
    work: (aborted: Promise<never> | undefined) => Promise<T>,
  ): Promise<T> {
    if (signal === undefined) return work(undefined);
    if (signal.aborted) throw this.#aborted(signal);
    let stop: (() => void) | undefined;
    const aborted = new Promise<never>((_, reject) => {
      stop = () => {
        reject(this.#aborted(signal));
      };
      signal.addEventListener('abort', stop, { once: true });
    });
    aborted.catch(() => {
      // It may fire when all units have arrived.
    });
    try {
      return await work(aborted);
    } finally {
      if (stop !== undefined) signal.removeEventListener('abort', stop);
    }
  }

  /** Settles when no fetch is under way; the caller makes sure that no read is. */
  async idle(): Promise<void> {
    while (this.#flights.size > 0) await Promise.allSettled([...this.#flights]);
  }

  #aborted(signal: AbortSignal): Error {
    return abortedError(`read "${this.#options.name}"`, signal);
  }

  #join(number: number): Unit {
    if (!Number.isSafeInteger(number) || number < 0 || number >= this.unitCount)
      throw new RangeError(`Unit ${number} of ${this.unitCount} of "${this.#options.name}"`);
    let unit = this.#units.get(number);
    if (unit === undefined) {
      let resolve: Unit['resolve'] = () => undefined;
      let reject: Unit['reject'] = () => undefined;
      const bytes = new Promise<Uint8Array>((yes, no) => {
        resolve = yes;
        reject = no;
      });
      bytes.catch(() => {
        // Readers have their own; a unit whose readers all left must not count as unhandled.
      });
      unit = { number, bytes, resolve, reject, readers: 0, flight: undefined };
      this.#units.set(number, unit);
      this.#waiting.set(number, unit);
      this.#schedule();
    }
    unit.readers++;
    return unit;
  }

  #leave(unit: Unit): void {
    if (--unit.readers > 0) return;
    if (this.#waiting.get(unit.number) === unit) {
      this.#waiting.delete(unit.number);
      this.#units.delete(unit.number);
    } else if (unit.flight !== undefined && this.#units.get(unit.number) === unit) {
      // Gone from the table, so that a later reader does not join a fetch that is being given up.
      this.#units.delete(unit.number);
      if (--unit.flight.wanted === 0) unit.flight.controller.abort();
    }
  }

  /** Starts fetches after this turn of the event loop, so that the reads of one turn are merged. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#start();
    });
  }

  #start(): void {
    while (this.#flights.size < this.#maxFetches) {
      const [next] = this.#waiting.values();
      if (next === undefined) return;
      const run = this.#takeRun(next);
      const work: Promise<void> = this.#fly(run).finally(() => {
        this.#flights.delete(work);
        this.#start();
      });
      this.#flights.add(work);
    }
  }

  /** The longest run of waiting units around one, within the limit of a fetch. */
  #takeRun(unit: Unit): Unit[] {
    let first = unit.number;
    let count = 1;
    while (count < this.#unitsPerFetch && this.#waiting.has(first - 1)) {
      first--;
      count++;
    }
    while (count < this.#unitsPerFetch && this.#waiting.has(first + count)) count++;
    const run: Unit[] = [];
    for (let number = first; number < first + count; number++) {
      const taken = this.#waiting.get(number);
      if (taken === undefined) break;
      this.#waiting.delete(number);
      run.push(taken);
    }
    return run;
  }

  async #fly(run: readonly Unit[]): Promise<void> {
    const [first] = run;
    if (first === undefined) return;
    const flight: Flight = { controller: new AbortController(), wanted: run.length };
    for (const unit of run) unit.flight = flight;
    let bytes: Uint8Array | undefined;
    let failure: unknown;
    try {
      bytes = await this.#options.fetch(first.number, run.length, flight.controller.signal);
    } catch (error) {
      failure = error;
    }
    let at = 0;
    for (const unit of run) {
      const length = this.lengthOf(unit.number);
      if (this.#units.get(unit.number) === unit) this.#units.delete(unit.number);
      if (bytes === undefined) unit.reject(failure);
      else unit.resolve(bytes.subarray(at, at + length));
      at += length;
    }
  }
}

/** A blob whose reads are coalesced, without a cache. Owns what it wraps. */
export class CoalescingBlob implements ReadableBlob {
  readonly name: string;
  readonly size: number;
  readonly #source: ReadableBlob;
  readonly #units: UnitCoalescer;
  readonly #reads = new Set<Promise<void>>();
  #closed = false;

  /** @param options.unitSize default 256 KiB, the reference's `refillSize`. */
  constructor(
    source: ReadableBlob,
    options: Partial<Pick<CoalescerOptions, 'unitSize' | 'maxFetchSize' | 'maxFetches'>> = {},
  ) {
    const { unitSize = 256 * 1024 } = options;
    this.name = source.name;
    this.size = source.size;
    this.#source = source;
    this.#units = new UnitCoalescer({
      ...options,
      unitSize,
      name: source.name,
      size: source.size,
      fetch: async (first, count, signal) => {
        const offset = first * unitSize;
        const bytes = new Uint8Array(Math.min(count * unitSize, source.size - offset));
        await source.read(offset, bytes, { signal });
        return bytes;
      },
    });
  }

  async read(offset: number, into: Uint8Array, options: ReadOptions = {}): Promise<void> {
    checkRange(this, offset, into.byteLength);
    if (this.#closed) throw new TypeError(`Read of "${this.name}" after close`);
    const work = this.#units.read(offset, into, options.signal);
    this.#reads.add(work);
    try {
      await work;
    } finally {
      this.#reads.delete(work);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled([...this.#reads]);
    // Fetches whose readers have gone are ending.
    await this.#units.idle();
    await this.#source.close();
  }
}
