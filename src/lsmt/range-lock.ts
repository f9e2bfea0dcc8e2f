interface Held {
  readonly start: number;
  readonly end: number;
  readonly released: Promise<void>;
}

/** Keeps calls whose ranges overlap apart, in the order they came. Bounded by the callers in flight. */
export class RangeLock {
  readonly #held = new Set<Held>();

  /** Runs `work` once no earlier call holds any of [start, end). */
  async with<T>(start: number, end: number, work: () => Promise<T>): Promise<T> {
    let before: Held[] | undefined;
    for (const held of this.#held) if (held.start < end && start < held.end) (before ??= []).push(held);
    let release = (): void => undefined;
    const held: Held = { start, end, released: new Promise((resolve) => (release = resolve)) };
    this.#held.add(held);
    try {
      if (before !== undefined) for (const other of before) await other.released;
      return await work();
    } finally {
      this.#held.delete(held);
      release();
    }
  }

  /** Settles once every call made before has ended. */
  async drain(): Promise<void> {
    for (const held of [...this.#held]) await held.released;
  }
}
