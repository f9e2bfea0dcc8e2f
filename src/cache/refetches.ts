import { LRUCache } from 'lru-cache';

/** A unit that was fetched again less than this ago is not fetched yet again: its readers all noticed the same fault. */
const REST_MS = 1000;

/** Units of one blob that are fetched again because they are damaged: each once, however many readers noticed. */
export class Refetches {
  readonly #ended = new LRUCache<number, number>({ max: 1024 });
  readonly #underWay = new Map<number, Promise<void>>();

  /**
   * Fetches again what is neither being fetched again nor just was.
   * @param fetch for all callers that want the same units: it knows no caller's signal.
   * @returns how many units that is, and what to wait for.
   */
  join(
    units: readonly number[],
    fetch: (units: readonly number[]) => Promise<void>,
  ): { readonly stale: number; readonly all: Promise<PromiseSettledResult<void>[]> } {
    const works = units.flatMap((unit) => this.#underWay.get(unit) ?? []);
    const now = performance.now();
    const stale = units.filter(
      (unit) => !this.#underWay.has(unit) && now - (this.#ended.get(unit) ?? -Infinity) > REST_MS,
    );
    if (stale.length > 0) {
      const work = this.#run(stale, fetch);
      for (const unit of stale) this.#underWay.set(unit, work);
      works.push(work);
    }
    return { stale: stale.length, all: Promise.allSettled(works) };
  }

  /** What was fetched again may be so at once. */
  forget(): void {
    this.#ended.clear();
  }

  async #run(units: readonly number[], fetch: (units: readonly number[]) => Promise<void>): Promise<void> {
    try {
      await fetch(units);
      for (const unit of units) this.#ended.set(unit, performance.now());
    } finally {
      for (const unit of units) this.#underWay.delete(unit);
    }
  }
}
