import type { CacheCounters } from './cache-services.js';
import type { UnitSource } from './unit-fetcher.js';

/** Counts what is read from sources. */
export class CountedSources {
  readonly #counters: CacheCounters;
  readonly #counted = new WeakMap<UnitSource, UnitSource>();

  constructor(counters: CacheCounters) {
    this.#counters = counters;
  }

  /** The source, counted: the same object for the same source, as a fetcher wants it. */
  counted(source: UnitSource): UnitSource {
    let counted = this.#counted.get(source);
    if (!counted) {
      counted = {
        read: async (offset, into, options) => {
          this.#counters.fetches++;
          this.#counters.fetchedBytes += into.byteLength;
          await source.read(offset, into, options);
        },
      };
      this.#counted.set(source, counted);
    }
    return counted;
  }
}
