import type { MetricsText } from './text.js';

/** A counter per value of one label. The values are to be few: each is kept for ever. */
export class LabelledCounter {
  readonly #identity: { readonly name: string; readonly help: string; readonly label: string };
  readonly #counts = new Map<string, number>();

  constructor(identity: { readonly name: string; readonly help: string; readonly label: string }) {
    this.#identity = identity;
  }

  add(value: string, amount = 1): void {
    this.#counts.set(value, (this.#counts.get(value) ?? 0) + amount);
  }

  write(out: MetricsText): void {
    const { name, help, label } = this.#identity;
    out.family(name, 'counter', help);
    for (const [value, count] of this.#counts) out.sample(count, { [label]: value });
  }
}

/** A histogram per value of one label. */
export class LabelledHistogram {
  readonly #identity: { readonly name: string; readonly help: string; readonly label: string };
  readonly #bounds: readonly number[];
  readonly #values = new Map<string, { readonly counts: number[]; count: number; sum: number }>();

  /** @param bounds upper bounds of the buckets, ascending. */
  constructor(
    identity: { readonly name: string; readonly help: string; readonly label: string },
    bounds: readonly number[],
  ) {
    this.#identity = identity;
    this.#bounds = bounds;
  }

  observe(label: string, value: number): void {
    let entry = this.#values.get(label);
    if (entry === undefined) {
      entry = { counts: this.#bounds.map(() => 0), count: 0, sum: 0 };
      this.#values.set(label, entry);
    }
    entry.count++;
    entry.sum += value;
    const at = this.#bounds.findIndex((bound) => value <= bound);
    if (at >= 0) entry.counts[at] = (entry.counts[at] ?? 0) + 1;
  }

  write(out: MetricsText): void {
    const { name, help, label } = this.#identity;
    out.family(name, 'histogram', help);
    for (const [value, { counts, count, sum }] of this.#values) {
      let atMost = 0;
      const buckets = this.#bounds.map((bound, i) => [bound, (atMost += counts[i] ?? 0)] as const);
      out.histogram(buckets, count, sum, { [label]: value });
    }
  }
}
