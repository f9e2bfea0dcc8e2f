import type { ImageOpener, ServiceConfig } from '../image/index.js';
import type { Logger } from '../log/index.js';
import { Exporter, metricsText, processMetrics, type MetricsSource } from '../metrics/index.js';
import type { PrefetchTotals } from '../prefetch/index.js';
import type { DeviceTable } from './device-table.js';
import type { DeviceTotals } from './device-totals.js';
import { deviceMetrics } from './metrics.js';
import { prefetchMetrics } from './prefetch-metrics.js';
import { ReferenceMetrics, type SeriesSample } from './reference-metrics.js';
import { commandMetrics, sourceMetrics } from './traffic-metrics.js';

/** Where a service's numbers come from. */
export interface ServiceMetricsOptions {
  readonly table: DeviceTable;
  readonly totals: DeviceTotals;
  readonly opener: ImageOpener;
  readonly prefetched: PrefetchTotals;
  readonly keys: ServiceConfig['exporterConfig'];
  readonly version: string;
  readonly log: Logger;
}

/** Everything that a service tells Prometheus (docs/metrics.md), and the exporter if the configuration wants one. */
export class ServiceMetrics {
  readonly #options: ServiceMetricsOptions;
  readonly #reference: ReferenceMetrics;
  /** Whoever has numbers to show adds a function that writes them. */
  readonly #sources: readonly MetricsSource[];
  #exporter: Exporter | undefined;

  constructor(options: ServiceMetricsOptions) {
    const { table, totals, opener, prefetched, keys, version } = options;
    this.#options = options;
    this.#reference = new ReferenceMetrics(() => this.#sample(), keys.correctLabels);
    this.#sources = [
      this.#reference.write,
      (out) => {
        out
          .family('overlaybd_build_info', 'gauge', 'What runs')
          .sample(1, { version, node: process.version });
      },
      (out) => {
        deviceMetrics(out, table.list());
      },
      (out) => {
        commandMetrics(out, totals, keys.deviceHistograms);
      },
      (out) => {
        sourceMetrics(out, opener);
      },
      (out) => {
        prefetchMetrics(out, prefetched.sums);
      },
      processMetrics,
    ];
  }

  /** In Prometheus' text format. */
  text(): string {
    return metricsText(this.#sources);
  }

  /** Begins to export, if the configuration says so. */
  start(): void {
    const { keys, log } = this.#options;
    if (keys.enable) this.#exporter = new Exporter(keys, () => this.text(), log);
  }

  /** Idempotent. */
  async close(): Promise<void> {
    this.#reference.close();
    await this.#exporter?.close();
  }

  /** What the reference's series are made of. */
  #sample(): Readonly<Record<'pread' | 'download', SeriesSample>> {
    const { totals, opener } = this.#options;
    const { traffic } = opener;
    const { reads, readBytes } = totals.sum().counters;
    return {
      pread: { count: reads, bytes: readBytes, longest: totals.takeLongestRead() / 1000 },
      download: { count: traffic.reads, bytes: traffic.bytes, longest: traffic.takeLongest() * 1000 },
    };
  }
}
