/**
 * The numbers that native/io_meter.h counts, in memory shared between threads: what a device's commands were and how
 * long they took. The layout is the header's; a test compares the two.
 */

/** Kinds of commands, as far as they differ in what makes them slow (enum io_cause). */
export const IoCause = {
  /** A read of local bytes. */
  LOCAL: 0,
  /** The same, with a block that had been unpacked before. */
  DECODED: 1,
  /** A read of local bytes that was left to a thread that may wait for a disk. */
  DISK: 2,
  /** A read that the main thread answered: bytes that were to be fetched, first of all. */
  GENERAL: 3,
  WRITE: 4,
  DISCARD: 5,
  FLUSH: 6,
} as const;
/** How many there are. */
export const IO_CAUSES = 7;

const HEAD = 8;
const CAUSE_HEAD = 8;
/** Buckets of one cause. */
export const METER_BUCKETS = 128;
const CAUSE_WORDS = CAUSE_HEAD + METER_BUCKETS;
/** Doubles of a meter. */
export const METER_WORDS = HEAD + IO_CAUSES * CAUSE_WORDS;
const FIRST = 8;
const QUARTERS = 4;

/** Index of the first word of a cause; its words are `MeterWord`s and, from `BUCKETS` on, {@link METER_BUCKETS} counts. */
export function meterBase(cause: number): number {
  return HEAD + cause * CAUSE_WORDS;
}

/** Words of a cause, from {@link meterBase} on. */
export const MeterWord = {
  /** Commands that ended, errors too. */
  COUNT: 0,
  ERRORS: 1,
  /** Of those that ended well. */
  BYTES: 2,
  /** Of all. */
  NANOSECONDS: 3,
  /** Nanoseconds of the longest since a reader last set it to 0. */
  LONGEST: 4,
  BUCKETS: CAUSE_HEAD,
} as const;

/** Index of the word that says how many commands are in flight. */
export const METER_IN_FLIGHT = 0;

/** Memory for a meter, all 0. */
export function newMeter(): Float64Array {
  return new Float64Array(new SharedArrayBuffer(METER_WORDS * 8));
}

/** Where a bucket ends, in nanoseconds; the last has no end. */
export function bucketEnd(bucket: number): number {
  if (bucket >= METER_BUCKETS - 1) return Infinity;
  const quarter = bucket % QUARTERS;
  return 2 ** (FIRST + Math.floor(bucket / QUARTERS)) * (1 + quarter / QUARTERS);
}

/** The bucket that a time belongs to, as native code puts it. */
export function bucketOf(nanoseconds: number): number {
  if (nanoseconds < 2 ** FIRST) return 0;
  const top = Math.floor(Math.log2(nanoseconds));
  const quarter = Math.floor((nanoseconds / 2 ** top - 1) * QUARTERS);
  return Math.min(1 + (top - FIRST) * QUARTERS + quarter, METER_BUCKETS - 1);
}
