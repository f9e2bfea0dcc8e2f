/** Calls that began between two questions. */
interface Generation {
  running: number;
  ended: (() => void) | undefined;
}

/** Tells when every call that had begun before a moment has ended. One counter a call; the question costs nothing else. */
export class Epoch {
  #current: Generation = { running: 0, ended: undefined };

  /** Counts `work` from now until it settles. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#current;
    mine.running++;
    try {
      return await work();
    } finally {
      if (--mine.running === 0) mine.ended?.();
    }
  }

  /** Settles when every call that is running now has ended; later ones do not count. One question at a time. */
  async passed(): Promise<void> {
    const before = this.#current;
    this.#current = { running: 0, ended: undefined };
    if (before.running > 0) await new Promise<void>((resolve) => (before.ended = resolve));
  }
}
