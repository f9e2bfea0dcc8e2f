import {
  IO_CAUSES,
  IoCause,
  METER_BUCKETS,
  METER_IN_FLIGHT,
  MeterWord,
  bucketOf,
  meterBase,
  newMeter,
} from '../native/index.js';

/** What one device did so far. */
export interface DeviceCounters {
  readonly reads: number;
  readonly readBytes: number;
  /** Reads whose bytes were on local disk. */
  readonly localReads: number;
  readonly writes: number;
  readonly writeBytes: number;
  readonly discards: number;
  readonly flushes: number;
}

const READS = [IoCause.LOCAL, IoCause.DECODED, IoCause.DISK, IoCause.GENERAL];
const LOCAL_READS = [IoCause.LOCAL, IoCause.DECODED, IoCause.DISK];

/** Told of each device that begins to be served. What it gives back is called when the device is served no more. */
export type OnServed = (meter: DeviceMeter) => () => void;

/**
 * What one device's commands were and how long they took. Counted where they end: by the I/O loop's thread (native code
 * writes to {@link words}), or here, for devices that are served in JavaScript. Anybody may read at any time.
 */
export class DeviceMeter {
  /** As native/io_meter.h lays it out. Shared memory. */
  readonly words: Float64Array;

  constructor(words = newMeter()) {
    this.words = words;
  }

  /** Commands taken and not answered yet. */
  get inFlight(): number {
    return this.words[METER_IN_FLIGHT] ?? 0;
  }

  /** One number of a cause: a `MeterWord`, or `MeterWord.BUCKETS` and the bucket's number. */
  word(cause: number, word: number): number {
    return this.words[meterBase(cause) + word] ?? 0;
  }

  get counters(): DeviceCounters {
    const sum = (causes: readonly number[], word: number): number =>
      causes.reduce((total, cause) => total + this.word(cause, word), 0);
    return {
      reads: sum(READS, MeterWord.COUNT),
      readBytes: sum(READS, MeterWord.BYTES),
      localReads: sum(LOCAL_READS, MeterWord.COUNT),
      writes: this.word(IoCause.WRITE, MeterWord.COUNT),
      writeBytes: this.word(IoCause.WRITE, MeterWord.BYTES),
      discards: this.word(IoCause.DISCARD, MeterWord.COUNT),
      flushes: this.word(IoCause.FLUSH, MeterWord.COUNT),
    };
  }

  /** Nanoseconds of the longest read since the last call. One reader; a read that ends this very moment may be missed. */
  takeLongestRead(): number {
    let longest = 0;
    for (const cause of READS) {
      const at = meterBase(cause) + MeterWord.LONGEST;
      longest = Math.max(longest, this.words[at] ?? 0);
      this.words[at] = 0;
    }
    return longest;
  }

  /** Adds all counts of another meter; not what is in flight. */
  addFrom(other: DeviceMeter): void {
    for (let cause = 0; cause < IO_CAUSES; cause++)
      for (let word = 0; word < MeterWord.BUCKETS + METER_BUCKETS; word++) {
        if (word === MeterWord.LONGEST) continue;
        this.#add(meterBase(cause) + word, other.word(cause, word));
      }
  }

  /** A command is taken; for devices served in JavaScript. */
  begin(): void {
    this.#add(METER_IN_FLIGHT, 1);
  }

  /** It is over. @param cause undefined: it counts as nothing. @param milliseconds since {@link begin}. */
  end(cause: number | undefined, milliseconds: number, bytes: number, ok: boolean): void {
    this.#add(METER_IN_FLIGHT, -1);
    if (cause === undefined) return;
    const nanoseconds = milliseconds * 1e6;
    const base = meterBase(cause);
    this.#add(base + MeterWord.COUNT, 1);
    this.#add(base + MeterWord.NANOSECONDS, nanoseconds);
    this.#add(base + MeterWord.BUCKETS + bucketOf(nanoseconds), 1);
    if (ok) this.#add(base + MeterWord.BYTES, bytes);
    else this.#add(base + MeterWord.ERRORS, 1);
    const longest = base + MeterWord.LONGEST;
    this.words[longest] = Math.max(this.words[longest] ?? 0, nanoseconds);
  }

  #add(at: number, amount: number): void {
    this.words[at] = (this.words[at] ?? 0) + amount;
  }
}
