import type { MetricsText } from '../metrics/index.js';
import type { PrefetchSums } from '../prefetch/index.js';

/** What replaying traces and lists of files does, all images together. */
export function prefetchMetrics(out: MetricsText, sums: PrefetchSums): void {
  out.family(
    'overlaybd_prefetch_ranges_total',
    'counter',
    'Ranges of traces and lists of files by how they ended; left is to readers',
  );
  for (const result of ['done', 'failed', 'left'] as const) out.sample(sums[result], { result });
  out
    .family('overlaybd_prefetch_bytes_total', 'counter', 'Bytes fetched ahead of readers')
    .sample(sums.bytes);
  out.family('overlaybd_prefetch_pending_ranges', 'gauge', 'Ranges still to be fetched').sample(sums.pending);
  out
    .family('overlaybd_prefetch_running', 'gauge', 'Images that something is still to be fetched for')
    .sample(sums.running);
}
