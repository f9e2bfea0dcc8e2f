/** Prometheus' text format, version 0.0.4. */

/** How that format is called over HTTP. */
export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** Labels of a sample, in the order they are written. */
export type Labels = Readonly<Record<string, string>>;

/** What a family measures. */
export type FamilyType = 'counter' | 'gauge' | 'histogram';

/** Whoever has numbers: writes whole families. A family is written by one source only. */
export type MetricsSource = (out: MetricsText) => void;

/** Collects families. */
export class MetricsText {
  #text = '';
  #name = '';

  /** Begins a family; its samples follow. */
  family(name: string, type: FamilyType, help: string): this {
    this.#name = name;
    this.#text += `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${type}\n`;
    return this;
  }

  /** One sample of the family. */
  sample(value: number, labels: Labels = {}): this {
    this.#text += `${this.#name}${labelText(labels)} ${numberText(value)}\n`;
    return this;
  }

  /**
   * One histogram of the family.
   * @param buckets upper bounds, ascending, and how many values are at most so large; the one without a bound is `count`.
   */
  histogram(
    buckets: readonly (readonly [bound: number, atMost: number])[],
    count: number,
    sum: number,
    labels: Labels = {},
  ): this {
    for (const [bound, atMost] of buckets)
      this.#text += `${this.#name}_bucket${labelText({ ...labels, le: numberText(bound) })} ${numberText(atMost)}\n`;
    const text = labelText(labels);
    this.#text += `${this.#name}_bucket${labelText({ ...labels, le: '+Inf' })} ${numberText(count)}\n`;
    this.#text += `${this.#name}_sum${text} ${numberText(sum)}\n${this.#name}_count${text} ${numberText(count)}\n`;
    return this;
  }

  /** Lines in the format, as they are. */
  raw(lines: string): this {
    this.#text += lines;
    return this;
  }

  toString(): string {
    return this.#text;
  }
}

/** All sources, one after the other. */
export function metricsText(sources: readonly MetricsSource[]): string {
  const out = new MetricsText();
  for (const source of sources) source(out);
  return out.toString();
}

/** `{a="1"}`, or nothing. */
export function labelText(labels: Labels): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return parts.length === 0 ? '' : `{${parts.join(',')}}`;
}

function escapeLabel(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}

function numberText(value: number): string {
  if (value === Infinity) return '+Inf';
  return value === -Infinity ? '-Inf' : String(value);
}
