/** Counts the changes of a layer, and tells one who waits for the next. */
export class ChangeCount {
  #count = 0;
  #tell: (() => void) | undefined;

  get count(): number {
    return this.#count;
  }

  add(): void {
    this.#count++;
    const tell = this.#tell;
    if (tell === undefined) return;
    this.#tell = undefined;
    tell();
  }

  /** Calls `tell` once, with the next change. For one who waits: a later call takes the place of an earlier one. */
  once(tell: () => void): void {
    this.#tell = tell;
  }
}
