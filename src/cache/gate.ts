/** Many may pass at once, or one alone. Those who want to be alone go first, in order; nobody is passed over for ever. */
export class Gate {
  #passing = 0;
  #empty: (() => void) | undefined;
  /** The last of those who are or will be alone. */
  #alone: Promise<void> | undefined;

  /** True while somebody is alone, or waits to be. */
  get closed(): boolean {
    return this.#alone !== undefined;
  }

  /** Runs `work` beside others of its kind. */
  async pass<T>(work: () => Promise<T>): Promise<T> {
    while (this.#alone) await this.#alone;
    this.#passing++;
    try {
      return await work();
    } finally {
      if (--this.#passing === 0) this.#empty?.();
    }
  }

  /** Runs `work` while nobody else is inside. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#alone;
    let leave = (): void => undefined;
    const mine = new Promise<void>((resolve) => (leave = resolve));
    this.#alone = mine;
    try {
      await before;
      if (this.#passing > 0) await new Promise<void>((resolve) => (this.#empty = resolve));
      this.#empty = undefined;
      return await work();
    } finally {
      if (this.#alone === mine) this.#alone = undefined;
      leave();
    }
  }
}

/**
 * Readers that are never held up, and a way to wait for those that are inside now: a grace period. Whoever enters
 * later is not waited for.
 */
export class Readers {
  /** Inside, by the parity of the era in which they entered. */
  readonly #inside: [number, number] = [0, 0];
  #era: 0 | 1 = 0;
  #ended: (() => void) | undefined;

  /** Returns what {@link leave} wants. */
  enter(): 0 | 1 {
    this.#inside[this.#era]++;
    return this.#era;
  }

  leave(era: 0 | 1): void {
    if (--this.#inside[era] === 0 && era !== this.#era) this.#ended?.();
  }

  /** Settles once everybody who is inside now has left. One call at a time. */
  async gone(): Promise<void> {
    const era = this.#era;
    this.#era = era === 0 ? 1 : 0;
    if (this.#inside[era] > 0) await new Promise<void>((resolve) => (this.#ended = resolve));
    this.#ended = undefined;
  }
}
