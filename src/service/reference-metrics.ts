/**
 * The series of overlaybd's exporter, as dashboards in the field expect them: names (one misspelt), labels (the series'
 * name is in `node`) and the shape of a sample are the reference's (service.md D.4).
 *
 *   pread     reads of devices      download   reads of registries
 *
 * Rates and maxima are those of the last five seconds, sampled once a second as long as somebody asks at least every
 * five minutes. The first answer after a pause is of all the time since the last sample: a service that nobody asks and
 * that has nothing to do need not wake up.
 */
import { hostname } from 'node:os';
import type { MetricsText } from '../metrics/index.js';

/** What is sampled of a series. */
export interface SeriesSample {
  /** Since the start. */
  readonly count: number;
  readonly bytes: number;
  /** Microseconds of the longest since the last sample. */
  readonly longest: number;
}

const WINDOW = 5;
const SAMPLE_MS = 1000;
/** Samples after an answer: scrapers come more often, to be sure of five seconds every time. */
const SAMPLES_PER_ANSWER = 300;
const NAMES = ['pread', 'download'] as const;
type SeriesName = (typeof NAMES)[number];

interface Moment {
  readonly at: number;
  readonly samples: Readonly<Record<SeriesName, SeriesSample>>;
}

/** See the head of this file. */
export class ReferenceMetrics {
  readonly #sample: () => Readonly<Record<SeriesName, SeriesSample>>;
  readonly #correctLabels: boolean;
  #moments: readonly Moment[] = [];
  #timer: NodeJS.Timeout | undefined;
  #samplesLeft = 0;

  /** @param sample called once a second while somebody asks. */
  constructor(sample: () => Readonly<Record<SeriesName, SeriesSample>>, correctLabels: boolean) {
    this.#sample = sample;
    this.#correctLabels = correctLabels;
    this.take();
  }

  /** Takes a sample; the timer does, and tests. */
  take(at = performance.now()): void {
    const all = [...this.#moments, { at, samples: this.#sample() }];
    const recent = all.slice(-WINDOW - 1).filter((moment) => at - moment.at <= (WINDOW + 1) * SAMPLE_MS);
    // After a pause: the last one before it.
    this.#moments = recent.length > 1 ? recent : all.slice(-2);
  }

  /** Somebody asks: samples are taken from now on, for some time. */
  #asked(): void {
    this.#samplesLeft = SAMPLES_PER_ANSWER;
    if (this.#timer !== undefined) return;
    this.take();
    this.#timer = setInterval(() => {
      this.take();
      if (--this.#samplesLeft === 0) this.close();
    }, SAMPLE_MS).unref();
  }

  readonly write = (out: MetricsText): void => {
    this.#asked();
    const first = this.#moments[0];
    const last = this.#moments.at(-1);
    if (first === undefined || last === undefined) return;
    const seconds = (last.at - first.at) / 1000;
    const rate = (name: SeriesName, of: 'count' | 'bytes'): number =>
      seconds > 0 ? (last.samples[name][of] - first.samples[name][of]) / seconds : 0;
    const longest = (name: SeriesName): number =>
      Math.max(0, ...this.#moments.slice(1).map(({ samples }) => samples[name].longest));
    const now = Date.now();
    const line = (metric: string, labels: readonly (readonly [string, string])[], value: number): string =>
      `${metric}{${labels.map(([k, v]) => `${k}="${v}"`).join(',')}}  ${value.toFixed(6)} ${now}\n`;
    const family = (
      metric: string,
      help: string,
      withMode: boolean,
      of: (name: SeriesName) => number,
    ): void => {
      const lines = NAMES.map((name) => {
        const labels = this.#correctLabels
          ? ([
              ['node', host()],
              ['type', name],
            ] as const)
          : ([
              ['node', name],
              ['type', ''],
            ] as const);
        return line(metric, withMode ? [...labels, ['mode', '']] : labels, of(name));
      });
      out.raw(`# HELP ${metric} ${help}\n# TYPE ${metric} gauge\n${lines.join('')}\n`);
    };
    out.raw(
      `# HELP OverlayBD_Alive Whether the service runs\n# TYPE OverlayBD_Alive gauge\n${line('OverlayBD_Alive', [['node', host()]], 1)}\n`,
    );
    family('OverlayBD_Read_Throughtput', 'Bytes read per second', true, (name) => rate(name, 'bytes'));
    family('OverlayBD_QPS', 'Reads per second', true, (name) => rate(name, 'count'));
    family('OverlayBD_MaxLatency', 'Longest read of the last 5 s in microseconds', true, longest);
    family('OverlayBD_Count', 'Reads since the start', false, (name) => last.samples[name].count);
  };

  /** Takes no more samples until somebody asks. */
  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

function host(): string {
  return hostname().replaceAll(/["\\\n]/g, '_');
}
