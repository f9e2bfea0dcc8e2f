/** What `obd top` shows: the difference between two looks at the service's meters. */
import { DeviceMeter } from '../blockdev/index.js';
import { IO_CAUSES, IoCause, METER_BUCKETS, MeterWord, bucketEnd, meterBase } from '../native/index.js';
import type { TrafficAnswer } from '../service/index.js';

/** One device in one interval. */
export interface TopRow {
  readonly id: string;
  readonly devicePath: string | undefined;
  readonly transport: string;
  readonly state: string;
  readonly reason: string | undefined;
  /** Per second. */
  readonly readIops: number;
  readonly writeIops: number;
  readonly readBytesPerSecond: number;
  readonly writeBytesPerSecond: number;
  /** From the registry. */
  readonly fetchedBytesPerSecond: number;
  /** Microseconds of reads and writes that ended; undefined without any. Right to a fifth. */
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
  /** Share of reads whose bytes were on local disk, 0 to 1; undefined without reads. */
  readonly hitRatio: number | undefined;
  readonly inFlight: number;
  /** Since the device was attached. */
  readonly bytesFetched: number;
  readonly errors: number;
  readonly download: string | undefined;
}

type Looked = TrafficAnswer['devices'][number];

/** @param before an earlier answer of the same service; devices that it lacks are measured from their beginning. */
export function topRows(before: TrafficAnswer, now: TrafficAnswer): TopRow[] {
  const seconds = Math.max((now.atMs - before.atMs) / 1000, 1e-3);
  const earlier = new Map(before.devices.map((looked) => [looked.device.id, looked]));
  return now.devices.map((looked) => {
    const last = earlier.get(looked.device.id);
    return row(last?.device.since === looked.device.since ? last : undefined, looked, seconds);
  });
}

function row(before: Looked | undefined, { device, meter }: Looked, seconds: number): TopRow {
  const words = Float64Array.from(meter);
  const difference = new DeviceMeter(words.map((word, i) => word - (before?.meter[i] ?? 0)));
  const { reads, readBytes, localReads, writes, writeBytes } = difference.counters;
  const percentile = percentilesOf(difference);
  return {
    id: device.id,
    devicePath: device.devicePath,
    transport: device.transport,
    state: device.state,
    reason: device.state === 'ready' ? undefined : device.reason?.message,
    readIops: reads / seconds,
    writeIops: writes / seconds,
    readBytesPerSecond: readBytes / seconds,
    writeBytesPerSecond: writeBytes / seconds,
    fetchedBytesPerSecond: (device.bytesFetched - (before?.device.bytesFetched ?? 0)) / seconds,
    p50Us: percentile(0.5),
    p99Us: percentile(0.99),
    // What counts in JavaScript does not know where bytes come from.
    hitRatio: reads > 0 && device.transport !== 'nbd' ? localReads / reads : undefined,
    inFlight: new DeviceMeter(words).inFlight,
    bytesFetched: device.bytesFetched,
    errors: device.errors,
    download: device.download?.state,
  };
}

/** Of reads and writes: flushes and discards say nothing about waiting for data. In microseconds. */
function percentilesOf(meter: DeviceMeter): (share: number) => number | undefined {
  const counts = new Float64Array(METER_BUCKETS);
  for (let cause = 0; cause < IO_CAUSES; cause++) {
    if (cause === IoCause.DISCARD || cause === IoCause.FLUSH) continue;
    const base = meterBase(cause) + MeterWord.BUCKETS;
    for (let i = 0; i < METER_BUCKETS; i++) counts[i] = (counts[i] ?? 0) + (meter.words[base + i] ?? 0);
  }
  const total = counts.reduce((sum, n) => sum + n, 0);
  return (share) => {
    if (total <= 0) return undefined;
    let below = 0;
    for (let i = 0; i < METER_BUCKETS; i++) {
      const n = counts[i] ?? 0;
      if (n > 0 && below + n >= share * total) {
        const from = i === 0 ? 0 : bucketEnd(i - 1);
        const to = i === METER_BUCKETS - 1 ? from * 1.25 : bucketEnd(i);
        return (from + ((share * total - below) / n) * (to - from)) / 1000;
      }
      below += n;
    }
    return undefined;
  };
}
