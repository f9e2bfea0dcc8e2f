import { DeviceMeter } from '../blockdev/index.js';
import type { ImageOpener } from '../image/index.js';
import type { Labels, MetricsText } from '../metrics/index.js';
import { IO_CAUSES, IoCause, METER_BUCKETS, MeterWord, bucketEnd } from '../native/index.js';
import type { DeviceTotals } from './device-totals.js';

/** How causes are called in labels. */
const CAUSE_LABELS: Readonly<Record<number, Labels>> = {
  [IoCause.LOCAL]: { op: 'read', cause: 'local' },
  [IoCause.DECODED]: { op: 'read', cause: 'decoded' },
  [IoCause.DISK]: { op: 'read', cause: 'disk' },
  [IoCause.GENERAL]: { op: 'read', cause: 'general' },
  [IoCause.WRITE]: { op: 'write', cause: '' },
  [IoCause.DISCARD]: { op: 'discard', cause: '' },
  [IoCause.FLUSH]: { op: 'flush', cause: '' },
};
const labelsOf = (cause: number): Labels => CAUSE_LABELS[cause] ?? {};

/** Bounds of exported buckets: 2^12 ns (4 us) to 2^36 ns (69 s), a factor of four apart; our own are finer. */
const FIRST_BOUND = 12;
const LAST_BOUND = 36;
const BOUND_STEP = 2;

function histogram(out: MetricsText, meter: DeviceMeter, cause: number, labels: Labels): void {
  const buckets: [number, number][] = [];
  let atMost = 0;
  let bucket = 0;
  for (let power = FIRST_BOUND; power <= LAST_BOUND; power += BOUND_STEP) {
    const bound = 2 ** power;
    for (; bucket < METER_BUCKETS && bucketEnd(bucket) <= bound; bucket++)
      atMost += meter.word(cause, MeterWord.BUCKETS + bucket);
    buckets.push([bound / 1e9, atMost]);
  }
  // Of all buckets, so that the parts and the whole agree though counting goes on.
  for (; bucket < METER_BUCKETS; bucket++) atMost += meter.word(cause, MeterWord.BUCKETS + bucket);
  out.histogram(buckets, atMost, meter.word(cause, MeterWord.NANOSECONDS) / 1e9, labels);
}

/** What all devices' commands were and how long they took; perhaps that of each. */
export function commandMetrics(out: MetricsText, totals: DeviceTotals, deviceHistograms: boolean): void {
  const sum = totals.sum();
  const devices = totals.look();
  out.family(
    'overlaybd_command_seconds',
    'histogram',
    'Time from the arrival of a command to its answer, all devices',
  );
  for (let cause = 0; cause < IO_CAUSES; cause++) histogram(out, sum, cause, labelsOf(cause));
  out.family('overlaybd_command_bytes_total', 'counter', 'Bytes of commands that ended well, all devices');
  for (let cause = 0; cause < IO_CAUSES; cause++)
    out.sample(sum.word(cause, MeterWord.BYTES), labelsOf(cause));
  out.family('overlaybd_command_errors_total', 'counter', 'Commands that ended with an error, all devices');
  for (let cause = 0; cause < IO_CAUSES; cause++)
    out.sample(sum.word(cause, MeterWord.ERRORS), labelsOf(cause));

  const each = (
    name: string,
    type: 'counter' | 'gauge',
    help: string,
    of: (m: DeviceMeter) => number,
  ): void => {
    out.family(name, type, help);
    for (const { id, transport, meter } of devices) out.sample(of(meter), { device: id, transport });
  };
  each('overlaybd_device_in_flight', 'gauge', 'Commands taken and not answered yet', (m) => m.inFlight);
  each(
    'overlaybd_device_local_reads_total',
    'counter',
    'Reads whose bytes were on local disk',
    (m) => m.counters.localReads,
  );
  each('overlaybd_device_writes_total', 'counter', 'Writes of the device', (m) => m.counters.writes);
  each(
    'overlaybd_device_written_bytes_total',
    'counter',
    'Bytes written to the device',
    (m) => m.counters.writeBytes,
  );
  each('overlaybd_device_discards_total', 'counter', 'Discards of the device', (m) => m.counters.discards);
  each('overlaybd_device_flushes_total', 'counter', 'Flushes of the device', (m) => m.counters.flushes);
  if (!deviceHistograms) return;
  out.family(
    'overlaybd_device_command_seconds',
    'histogram',
    'Time from the arrival of a command to its answer',
  );
  for (const { id, transport, meter } of devices)
    for (let cause = 0; cause < IO_CAUSES; cause++)
      if (meter.word(cause, MeterWord.COUNT) > 0)
        histogram(out, meter, cause, { device: id, transport, ...labelsOf(cause) });
}

/** What came from registries, and what the caches did. */
export function sourceMetrics(out: MetricsText, opener: ImageOpener): void {
  const { traffic } = opener;
  out.family(
    'overlaybd_registry_answers_total',
    'counter',
    'Answers of registries by HTTP status; requests without one by error code',
  );
  for (const [status, count] of opener.registryAnswers) out.sample(count, { status });
  out.family('overlaybd_source_reads_total', 'counter', 'Reads of blobs in registries').sample(traffic.reads);
  out.family('overlaybd_source_errors_total', 'counter', 'Those that failed').sample(traffic.errors);
  out.family('overlaybd_source_bytes_total', 'counter', 'Bytes read from registries').sample(traffic.bytes);
  out
    .family('overlaybd_source_seconds_total', 'counter', 'Time that these reads took, all together')
    .sample(traffic.milliseconds / 1000);
  out.family('overlaybd_source_in_flight', 'gauge', 'Reads of registries under way').sample(traffic.inFlight);

  const caches = opener.cacheStats();
  for (const [name, type, help, of] of CACHE_FAMILIES) {
    out.family(name, type, help);
    for (const [cache, stats] of caches) out.sample(of(stats), { cache });
  }
}

type Stats = ReturnType<ImageOpener['cacheStats']> extends ReadonlyMap<string, infer S> ? S : never;
const CACHE_FAMILIES: readonly (readonly [string, 'counter' | 'gauge', string, (s: Stats) => number])[] = [
  ['overlaybd_cache_used_bytes', 'gauge', 'Space in use', (s) => s.usedBytes],
  ['overlaybd_cache_capacity_bytes', 'gauge', 'Most space', (s) => s.capacity],
  ['overlaybd_cache_open_blobs', 'gauge', 'Blobs in use', (s) => s.openBlobs],
  [
    'overlaybd_cache_reads_total',
    'counter',
    'Reads that came to the cache: what is planned for I/O workers does not',
    (s) => s.reads,
  ],
  ['overlaybd_cache_hits_total', 'counter', 'Those that found all their bytes', (s) => s.hits],
  ['overlaybd_cache_fetched_bytes_total', 'counter', 'Bytes fetched for the cache', (s) => s.fetchedBytes],
  ['overlaybd_cache_evicted_bytes_total', 'counter', 'Bytes evicted', (s) => s.evictedBytes],
  [
    'overlaybd_cache_unstored_bytes_total',
    'counter',
    'Bytes fetched that the disk did not take',
    (s) => s.unstoredBytes,
  ],
  ['overlaybd_cache_bad_units_total', 'counter', 'Units whose bytes were damaged', (s) => s.badUnits],
  ['overlaybd_cache_disk_failures_total', 'counter', 'Failures of the cache disk', (s) => s.diskFailures],
  [
    'overlaybd_cache_disk_usable',
    'gauge',
    '0 while the disk rests after a failure',
    (s) => (s.diskUsable ? 1 : 0),
  ],
];
