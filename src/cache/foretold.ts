/**
 * What a miss fetches beside what was missed, in a blob whose units are smaller than that: the rest of the aligned stretch
 * of `missSize` bytes. Not if all that is missing was foretold: then it is known what else will be needed.
 */
export class Foretold {
  readonly #units: number;
  /** Units of one stretch. */
  readonly #step: number;
  /** One byte per unit, 1 = will be read. */
  #expected: Uint8Array | undefined;

  constructor(size: number, unitSize: number, missSize: number) {
    this.#units = Math.ceil(size / unitSize);
    this.#step = Math.floor(missSize / unitSize);
  }

  /** Says which units will be read: one byte per unit, 1 = will be. Several such maps add up. */
  expect(units: Uint8Array): void {
    const expected = (this.#expected ??= new Uint8Array(this.#units));
    for (let unit = 0; unit < expected.length; unit++) if (units[unit] === 1) expected[unit] = 1;
  }

  /** Units outside of [first, end) that are to be fetched with those of it that are missing. */
  around(first: number, end: number, missing: readonly number[]): number[] {
    const step = this.#step;
    const expected = this.#expected;
    if (step <= 1 || (expected !== undefined && missing.every((unit) => expected[unit] === 1))) return [];
    const around: number[] = [];
    const stop = Math.min(Math.ceil(end / step) * step, this.#units);
    for (let unit = Math.floor(first / step) * step; unit < stop; unit++)
      if (unit < first || unit >= end) around.push(unit);
    return around;
  }
}
