/**
 * Carries out fetches in their order, so that the line is busy and nobody who waits for other bytes waits long: at most
 * `concurrency` at once, and no more bytes under way than the line brings in a moment. How much that is, is measured: the
 * window begins small, follows the rate, and covers twice the shortest answer time, so that a fast line far away fills too.
 */
import type { Logger } from '../log/index.js';

/** Something to fetch. */
export interface Job {
  /** Bytes it takes at most. */
  readonly length: number;
  /** Fetches; gives the bytes that had to be fetched. */
  run(signal: AbortSignal): Promise<number>;
  /** For the log. */
  readonly where: Readonly<Record<string, unknown>>;
}

/** How far a replay is. */
export interface ReplayProgress {
  readonly jobs: number;
  readonly jobsDone: number;
  readonly failures: number;
  /** Bytes fetched. */
  readonly bytes: number;
}

/** Options of {@link replay}. */
export interface ReplayOptions {
  /** Most jobs at once (`prefetchConfig.concurrency`). */
  readonly concurrency: number;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** Told after each job. */
  readonly progress?: (progress: ReplayProgress) => void;
}

/** What a reader who comes in between waits for at most, about. */
const WINDOW_MS = 100;
const MIN_WINDOW = 192 << 10;
const MAX_WINDOW = 8 << 20;
/** How long the rate is measured before the window follows it. */
const MEASURE_MS = 50;
/** So many failures one after the other, and the rest is left: readers will meet the same. */
const MAX_FAILURES = 32;

/** Never rejects: failures are counted, and the first is logged. */
export async function replay(jobs: readonly Job[], options: ReplayOptions): Promise<ReplayProgress> {
  const { concurrency, log, signal } = options;
  const window = new Window();
  const running = new Set<Promise<void>>();
  let jobsDone = 0;
  let failures = 0;
  let failuresInARow = 0;
  let bytes = 0;
  const progress = (): ReplayProgress => ({ jobs: jobs.length, jobsDone, failures, bytes });
  const one = async (job: Job): Promise<void> => {
    const started = performance.now();
    let fetched = 0;
    try {
      fetched = await job.run(signal);
      failuresInARow = 0;
      bytes += fetched;
    } catch (error) {
      if (signal.aborted) return;
      failuresInARow++;
      if (failures++ === 0) log.warn({ err: error, ...job.where }, 'prefetch failed; readers will fetch it');
    } finally {
      jobsDone++;
      window.ended(job.length, fetched, performance.now() - started);
      options.progress?.(progress());
    }
  };
  for (const job of jobs) {
    while (running.size > 0 && (running.size >= concurrency || !window.fits(job.length)))
      await Promise.race(running);
    if (signal.aborted || failuresInARow >= MAX_FAILURES) break;
    window.began(job.length);
    const work = one(job).finally(() => running.delete(work));
    running.add(work);
  }
  await Promise.all(running);
  return progress();
}

/** Bytes that may be under way. */
class Window {
  #size = MIN_WINDOW;
  #underWay = 0;
  #since = 0;
  #bytes = 0;
  #shortestMs = Infinity;

  fits(length: number): boolean {
    return this.#underWay + length <= this.#size;
  }

  began(length: number): void {
    if (this.#underWay === 0) {
      this.#since = performance.now();
      this.#bytes = 0;
    }
    this.#underWay += length;
  }

  ended(length: number, fetched: number, ms: number): void {
    this.#underWay -= length;
    if (fetched === 0) return;
    this.#shortestMs = Math.min(this.#shortestMs, ms);
    this.#bytes += fetched;
    const elapsed = performance.now() - this.#since;
    if (elapsed < MEASURE_MS) return;
    const cover = Math.max(WINDOW_MS, 2 * this.#shortestMs);
    this.#size = Math.min(Math.max((this.#bytes / elapsed) * cover, MIN_WINDOW), MAX_WINDOW);
    this.#since += elapsed;
    this.#bytes = 0;
  }
}
