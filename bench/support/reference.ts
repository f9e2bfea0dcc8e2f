/**
 * What ours is held against: figures of the C++ reference (overlaybd), measured on a machine like ours with 2 cores: an
 * empty base plus one layer of 551 MB with a Debian root, page cache warm, one core, its library called directly, without
 * kernel or ring. `goal`: the multiple of it that we want, through the whole ring.
 */
export interface Reference {
  /** Of the results: a report's subject, the beginning of a row's name, and a number of it. */
  readonly subject: string;
  readonly row: string;
  readonly key: 'iops' | 'mbPerSecond';
  readonly name: string;
  readonly value: number;
  readonly goal: number;
}

/** Reads through the ring, and of those the last from a cold page cache. */
export const READS: readonly Reference[] = [
  read('raw', 'uncompressed, 4 KiB random, QD1', 'random read 4 KiB, QD1', 691e3, 0),
  read('raw', 'uncompressed, 4 KiB random, QD32', 'random read 4 KiB, QD32', 673e3, 350 / 673),
  read('lz4', 'LZ4, 4 KiB random, QD1', 'random read 4 KiB, QD1', 180e3, 0.5),
  read('lz4', 'LZ4, 4 KiB random, QD32', 'random read 4 KiB, QD32', 176e3, 260 / 176),
  read('lz4', 'LZ4, 64 KiB random, QD32', 'random read 64 KiB, QD32', 30.6e3, 1.5),
  rate('lz4', 'LZ4, sequential, 1 MiB, QD4', 'sequential read 1 MiB, QD4', 2500, 1.3),
  read('zstd', 'zstd, 4 KiB random, QD1', 'random read 4 KiB, QD1', 32.5e3, 1.5),
  read('zstd', 'zstd, 4 KiB random, QD32', 'random read 4 KiB, QD32', 30.4e3, 3),
  read('zstd', 'zstd, 64 KiB random, QD32', 'random read 64 KiB, QD32', 4.1e3, 3),
  rate('zstd', 'zstd, sequential, 1 MiB, QD4', 'sequential read 1 MiB, QD4', 310, 3),
  read('lz4-32k', 'LZ4 in 32 KiB blocks, 4 KiB local, QD32', 'local read 4 KiB, QD32', 51e3, 2),
];

/** From a cold page cache. */
export const COLD_READ: Reference = read(
  'lz4',
  'LZ4, 4 KiB random, QD32, page cache cold',
  'random read 4 KiB, QD32, cold',
  13e3,
  3,
);

/** Out of a gzip layer by its index, what was unpacked once being kept (TurboOCI images). */
export const GZIP_READ: Reference = read(
  'gzip',
  'gzip, 4 KiB random, QD1',
  'random read 4 KiB, QD1',
  640,
  20,
);

/** Opening 33 layers, milliseconds; merging 16 layers of 20,000 extents, milliseconds; lookups, millions per second. */
export const OTHERS = {
  openMs: 9.5,
  mergeMs: 196,
  lookupsMillion: 8.6,
  openGoal: 1,
  mergeGoal: 0.15,
} as const;

/** Multiples of tcmu-runner's figure in the same boot. */
export const TCMU_GOALS: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  raw: { 'randread 4k QD1': 0.9, 'randread 4k QD32': 2, 'read 1M QD4': 2 },
  lz4: { 'randread 4k QD1': 0.8, 'randread 4k QD32': 1.8, 'read 1M QD4': 1 },
  zstd: { 'randread 4k QD1': 0.6, 'randread 4k QD32': 1.3, 'read 1M QD4': 0.5 },
};

/** What the reference daemon reached through TCMU on a machine like ours, beside tcmu-runner. */
export const TCMU_REFERENCE: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  'tcmu-runner': { 'randread 4k QD1': 10.4e3, 'randread 4k QD32': 11.1e3, 'read 1M QD4': 1350 },
  raw: { 'randread 4k QD1': 5.0e3, 'randread 4k QD32': 11.9e3, 'read 1M QD4': 2000 },
  lz4: { 'randread 4k QD1': 6.6e3, 'randread 4k QD32': 14.1e3, 'read 1M QD4': 890 },
  zstd: { 'randread 4k QD1': 4.2e3, 'randread 4k QD32': 8.5e3, 'read 1M QD4': 180 },
};

function read(subject: string, name: string, row: string, value: number, goal: number): Reference {
  return { subject, row, key: 'iops', name, value, goal };
}

function rate(subject: string, name: string, row: string, value: number, goal: number): Reference {
  return { subject, row, key: 'mbPerSecond', name, value, goal };
}
