import type { ReadableBlob } from '../blob/index.js';
import { percentile, type Row } from './report.js';

/** Something with a disk in it that was opened. */
export interface Opened {
  readonly blob: ReadableBlob;
  close(): Promise<void>;
}

/**
 * How long opening an image takes, and its first read, one after the other, `runs` times.
 * @param open opens it anew.
 * @param prepare is called before each, and not measured.
 */
export async function openingTimes(
  open: () => Promise<Opened>,
  runs: number,
  prepare: () => Promise<void> = () => Promise.resolve(),
): Promise<Row[]> {
  const times = { open: [] as number[], 'first read': [] as number[], close: [] as number[] };
  const into = Buffer.alloc(4096);
  for (let i = 0; i < runs; i++) {
    await prepare();
    const start = performance.now();
    const image = await open();
    const opened = performance.now();
    let read: number;
    try {
      await image.blob.read(1024, into.subarray(0, Math.min(into.length, image.blob.size - 1024)));
      read = performance.now();
    } finally {
      await image.close();
    }
    times.open.push(opened - start);
    times['first read'].push(read - opened);
    times.close.push(performance.now() - read);
  }
  return Object.entries(times).map(([name, values]) => ({ name, ...summaryMs(values) }));
}

/** First, best, median and worst of some times; the first is that of a cold program. */
export function summaryMs(values: readonly number[]): Record<string, number> {
  const sorted = values.toSorted((a, b) => a - b);
  return {
    firstMs: values[0] ?? 0,
    bestMs: sorted[0] ?? 0,
    medianMs: percentile(sorted, 0.5),
    worstMs: sorted.at(-1) ?? 0,
  };
}
