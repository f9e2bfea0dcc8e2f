/**
 * A load is what a benchmark asks of a disk: accesses of one size, so many at once, in some pattern. All patterns are
 * the same on every run with the same seed.
 *
 *   random      any place, each as likely
 *   sequential  from front to back, and again
 *   local       like programs, which read much of one part of the disk before they come to another: random within a
 *               window of 8 MiB, which lies elsewhere after every 4096 accesses
 *
 * Places are those that hold data, so that an image of 64 GiB with 500 MB in it is not measured by its zeroes.
 */
import { ConfigError, extentsOf } from '../blob/index.js';
import type { Row } from './report.js';

/** See the head of this file. */
export const PATTERNS = ['random', 'sequential', 'local'] as const;
/** One of {@link PATTERNS}. */
export type Pattern = (typeof PATTERNS)[number];

/** See the head of this file. */
export interface Load {
  /** Bytes of each access: whole sectors, at most 4 MiB. */
  readonly length: number;
  /** Accesses in flight, at most 1024; times `length` at most 256 MiB. */
  readonly depth: number;
  readonly pattern: Pattern;
  /** Percent of writes. */
  readonly writes: number;
  readonly seconds: number;
  /** Seconds of the same load that are not measured. */
  readonly warmUp: number;
  readonly seed: number;
  /** Visit no place twice, and nothing before the clock runs: what was not in memory is measured as such. */
  readonly cold: boolean;
}

/** What came out of a load. Latencies in microseconds; `cpu` is processors kept busy, without the maker of the load. */
export interface Measured {
  readonly operations: number;
  readonly seconds: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly cpu: number;
}

/** Of the local pattern: bytes, and accesses (native/load_meter.h has the same number). */
export const LOCAL_WINDOW = 8 << 20;
/** See {@link LOCAL_WINDOW}. */
export const WINDOW_ACCESSES = 4096;
/** 16 MiB of numbers; an image with more places is visited at so many of them, evenly spread. */
const MAX_PLACES = 2 << 20;
const MAX_LENGTH = 4 << 20;
const MAX_DEPTH = 1024;
const MAX_MEMORY = 256 << 20;

/** Repeatable random whole numbers below `n` (mulberry32; the same for the same seed). */
export function randoms(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n);
  };
}

/** @throws ConfigError OBD_CONFIG_VALUE for a load that nobody can carry out. */
export function checkLoad({ length, depth, pattern, writes, seconds, cold }: Load): void {
  const wrong = (what: string): never => {
    throw new ConfigError('OBD_CONFIG_VALUE', what);
  };
  if (!(length >= 512 && length <= MAX_LENGTH && length % 512 === 0))
    wrong(`Block size is ${length} bytes, expected whole sectors of 512 up to 4 MiB`);
  if (!(Number.isInteger(depth) && depth >= 1 && depth <= MAX_DEPTH))
    wrong(`Depth is ${depth}, expected 1 to ${MAX_DEPTH}`);
  if (depth * length > MAX_MEMORY)
    wrong(`${depth} accesses of ${length} bytes need more than ${MAX_MEMORY >> 20} MiB of memory`);
  if (!(writes >= 0 && writes <= 100)) wrong(`Writes are ${writes} percent, expected 0 to 100`);
  if (!(seconds > 0 && seconds <= 86400)) wrong(`Duration is ${seconds} s, expected up to a day`);
  if (cold && pattern === 'local') wrong('Nothing is local about places that are visited once');
  if (cold && writes > 0) wrong('A cold load reads: there is nothing cold about writes');
}

/** `random read 4 KiB, QD32`. */
export function loadName({ length, depth, pattern, writes, cold }: Load): string {
  const size = length % (1 << 20) === 0 ? `${length >> 20} MiB` : `${length / 1024} KiB`;
  const kind = writes === 0 ? 'read' : writes === 100 ? 'write' : `${writes} % writes`;
  return `${pattern} ${kind} ${size}, QD${depth}${cold ? ', cold' : ''}`;
}

/**
 * The places of a load on a disk: offsets of blocks that are data from end to end, aligned to their size; all blocks of
 * a disk that has none, or if the load writes. In the order in which a sequential walk visits them.
 * @param disk its `extents`, if it has them, tell where data is.
 */
export function placesOf(disk: object, size: number, load: Load): Float64Array {
  const { length, pattern, writes, cold, seed } = load;
  const whole = writes > 0 ? [{ offset: 0, length: size }] : dataRuns(disk, size);
  let runs = whole;
  let count = countBlocks(runs, length);
  if (count === 0) count = countBlocks((runs = [{ offset: 0, length: size }]), length);
  if (count === 0)
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `The disk of ${size} bytes is smaller than a block of ${length}`,
    );
  const step = Math.ceil(count / MAX_PLACES);
  const places = new Float64Array(Math.ceil(count / step));
  let block = 0;
  for (const run of runs) {
    const end = run.offset + run.length;
    for (let at = Math.ceil(run.offset / length) * length; at + length <= end; at += length, block++)
      if (block % step === 0) places[block / step] = at;
  }
  if (pattern === 'random' && cold) shuffle(places, randoms(seed));
  return places;
}

/** Whether the places are to be visited in their order. */
export function inOrder({ pattern, cold }: Load): boolean {
  return pattern === 'sequential' || cold;
}

/** Bytes of the window that random accesses stay in; 0: none. */
export function windowOf({ pattern }: Load): number {
  return pattern === 'local' ? LOCAL_WINDOW : 0;
}

/** The row of a report. */
export function loadRow(load: Load, measured: Measured): Row {
  const { operations, seconds, p50, p99, p999, cpu } = measured;
  return {
    name: loadName(load),
    iops: operations / seconds,
    mbPerSecond: (operations * load.length) / seconds / 1e6,
    p50Us: p50,
    p99Us: p99,
    p999Us: p999,
    cpu,
  };
}

interface Run {
  readonly offset: number;
  readonly length: number;
}

/** Neighbouring extents of data are one run. */
function dataRuns(disk: object, size: number): Run[] {
  const runs: { offset: number; length: number }[] = [];
  for (const { offset, length, data } of extentsOf(disk, 0, size)) {
    if (!data) continue;
    const last = runs.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += length;
    else runs.push({ offset, length });
  }
  return runs;
}

function countBlocks(runs: readonly Run[], length: number): number {
  let count = 0;
  for (const run of runs) {
    const first = Math.ceil(run.offset / length);
    count += Math.max(0, Math.floor((run.offset + run.length) / length) - first);
  }
  return count;
}

function shuffle(places: Float64Array, random: (n: number) => number): void {
  for (let i = places.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [places[i], places[j]] = [places[j] ?? 0, places[i] ?? 0];
  }
}
