import type { ReplayProgress } from './replay.js';

/** What a replay shows of itself; a `Prefetch` does. */
export interface Replaying {
  readonly progress: ReplayProgress;
  /** False before there is anything to fetch, and once nothing more will be. */
  readonly running: boolean;
}

/** What was prefetched, and what is to come, all images together. */
export interface PrefetchSums {
  /** Ranges that are here now. */
  readonly done: number;
  readonly failed: number;
  /** Ranges left to readers: the image was closed, or too much failed. */
  readonly left: number;
  /** Bytes that were fetched for it. */
  readonly bytes: number;
  /** Ranges that are still to be fetched. */
  readonly pending: number;
  /** Images for which that is so. */
  readonly running: number;
}

/** Adds up prefetches, those of images that are closed too; only those that are open are kept. */
export class PrefetchTotals {
  readonly #open = new Set<Replaying>();
  #gone: PrefetchSums = { done: 0, failed: 0, left: 0, bytes: 0, pending: 0, running: 0 };

  /** Counts it from now on. */
  add(prefetch: Replaying): void {
    this.#open.add(prefetch);
  }

  /** Keeps its numbers, and forgets it. It has ended. */
  remove(prefetch: Replaying): void {
    if (this.#open.delete(prefetch)) this.#gone = plus(this.#gone, prefetch);
  }

  /** As of now. Sums only grow, but for `pending` and `running`. */
  get sums(): PrefetchSums {
    return [...this.#open].reduce(plus, this.#gone);
  }
}

function plus(sums: PrefetchSums, { progress, running }: Replaying): PrefetchSums {
  const { jobs, jobsDone, failures, bytes } = progress;
  const rest = jobs - jobsDone;
  return {
    done: sums.done + jobsDone - failures,
    failed: sums.failed + failures,
    left: sums.left + (running ? 0 : rest),
    bytes: sums.bytes + bytes,
    pending: sums.pending + (running ? rest : 0),
    running: sums.running + (running ? 1 : 0),
  };
}
