/** A device's activity becomes a report: layers, files and times are put to what the service noted. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ImageOpener, HostedImage } from '../image/index.js';
import type { DeviceActivity } from '../service/index.js';
import { fileAt, walkFiles, type FileStretch } from './disk-files.js';
import { diskRuns, unpackRecords, type MappedLower, type Records } from './disk-map.js';
import type {
  DiskRun,
  FilesReport,
  LayerReport,
  ReadEvent,
  Report,
  RequestEvent,
  RequestSummary,
} from './report-data.js';

/** The log of first reads in the service has as many entries. */
const READ_LOG = 4096;

/** What a report is made with. */
export interface GatherOptions {
  readonly version: string;
  readonly opener: ImageOpener;
  readonly signal?: AbortSignal;
}

/** What the page wants beside the report: which file is where. */
export interface GatheredReport {
  readonly report: Report;
  readonly stretches: readonly FileStretch[];
}

interface ImagePart {
  readonly runs: readonly DiskRun[];
  readonly layers: readonly LayerReport[];
  readonly files: FilesReport;
  readonly stretches: readonly FileStretch[];
  readonly writable: boolean;
  readonly unavailable: string | undefined;
}

/**
 * Opens the device's image a second time, as it is on disk and in the cache, and holds it against the activity. An image
 * that does not open, or holds no file system that can be read here, makes the report poorer and says why.
 */
export async function gatherReport(
  activity: DeviceActivity,
  options: GatherOptions,
): Promise<GatheredReport> {
  const { device } = activity;
  const records = unpackRecords(activity);
  const times = [
    ...activity.reads.first.map(([time]) => time),
    ...activity.fetches.first.map(([time]) => time),
  ];
  const start = times.reduce((least, time) => Math.min(least, time), Infinity);
  const origin = Number.isFinite(start) ? start : Date.parse(device.since);
  const reads: ReadEvent[] = activity.reads.first.map(([time, offset, length, local]) => ({
    at: time - origin,
    offset,
    length,
    local: local === 1,
    path: undefined,
  }));
  const image = await imagePart(activity, records, reads, options);
  const numbers = new Map(image.layers.map(({ digest, number }) => [digest, number]));
  const requests: RequestEvent[] = activity.fetches.first.map(
    ([time, blob, offset, length, milliseconds, cause, ok]) => {
      const digest = activity.fetches.blobs[blob]?.digest ?? '';
      return {
        at: time - origin,
        layer: numbers.get(digest),
        digest,
        offset,
        length,
        milliseconds,
        cause: records.causes[cause] ?? 'read',
        ok: ok === 1,
      };
    },
  );
  const { blobs } = activity.fetches;
  const sum = (of: (run: DiskRun) => boolean): number =>
    image.runs.reduce((total, run) => total + (of(run) ? run.length : 0), 0);
  const readBytes = sum(({ read }) => read);
  const fetchedBytes = blobs.reduce((total, { bytes }) => total + bytes.reduce((a, b) => a + b, 0), 0);
  const report: Report = {
    version: options.version,
    time: new Date(activity.time).toISOString(),
    device,
    start: new Date(origin).toISOString(),
    totals: {
      diskBytes: sum(() => true),
      readBytes,
      fetchedDiskBytes: sum(({ cause }) => cause !== 'local'),
      fetchedUnreadBytes: sum(({ cause, read }) => cause !== 'local' && !read),
      fetchedBytes,
      amplification: readBytes > 0 ? fetchedBytes / readBytes : undefined,
      storedBytes: image.layers.reduce((total, { size }) => total + size, 0),
      requests: blobs.reduce((total, blob) => total + blob.requests, 0),
      failedRequests: blobs.reduce((total, blob) => total + blob.failed, 0),
    },
    layers: image.layers,
    imageUnavailable: image.unavailable,
    writable: image.writable,
    map: image.runs,
    files: image.files,
    causes: records.causes
      .map((cause, i) =>
        summary(
          cause,
          blobs.reduce((total, blob) => total + (blob.bytes[i] ?? 0), 0),
          requests,
        ),
      )
      .filter(({ requests: count }) => count > 0),
    reads: reads.map((read) => ({ ...read, path: fileAt(image.stretches, read.offset) })),
    readsTruncated: reads.length >= READ_LOG,
    requests,
    requestsOmitted: activity.fetches.omitted,
  };
  return { report, stretches: image.stretches };
}

function summary(cause: string, bytes: number, all: readonly RequestEvent[]): RequestSummary {
  const mine = all.filter((request) => request.cause === cause);
  const sorted = mine.map(({ milliseconds }) => milliseconds).sort((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  return {
    cause,
    bytes,
    requests: mine.length,
    failed: mine.filter(({ ok }) => !ok).length,
    median: at(0.5),
    p95: at(0.95),
    longest: sorted.at(-1) ?? 0,
  };
}

async function imagePart(
  activity: DeviceActivity,
  records: Records,
  reads: readonly ReadEvent[],
  { opener, signal }: GatherOptions,
): Promise<ImagePart> {
  const options = signal === undefined ? {} : { signal };
  let image: HostedImage | undefined;
  try {
    image = await opener.open(activity.device.configPath, { mode: 'read', ...options });
    return await partOf(image, activity, records, reads, options);
  } catch (error) {
    if (signal?.aborted === true) throw error;
    return withoutImage(activity, sentence(error));
  } finally {
    await image?.close();
  }
}

/** Before anything is read for the report: what is present shall be the device's doing. */
async function partOf(
  image: HostedImage,
  activity: DeviceActivity,
  records: Records,
  reads: readonly ReadEvent[],
  options: { readonly signal?: AbortSignal },
): Promise<ImagePart> {
  const lowers = image.lowers.map((lower): MappedLower => ({
    lower,
    digest: image.config.lowers[lower.number]?.digest ?? '',
    targetDigest: image.config.lowers[lower.number]?.targetDigest ?? '',
  }));
  const runs = lowers.length === 0 ? [] : diskRuns(lowers, records);
  const layers = lowers.map((lower) => layerReport(lower, activity, runs));
  const workDir = await mkdtemp(join(tmpdir(), 'obd-report-'));
  const common = { runs, layers, writable: image.upper !== undefined, unavailable: undefined };
  try {
    const { report, stretches } = await walkFiles(image.blob, runs, reads, { workDir, ...options });
    return { ...common, stretches, files: { unavailable: undefined, ...report } };
  } catch (error) {
    if (options.signal?.aborted === true) throw error;
    return { ...common, stretches: [], files: noFiles(sentence(error), runs) };
  } finally {
    await rm(workDir, { recursive: true, force: true });
  }
}

function noFiles(reason: string, runs: readonly DiskRun[]): FilesReport {
  return {
    unavailable: reason,
    count: 0,
    readCount: 0,
    files: [],
    otherReadBytes: runs.reduce((sum, { read, length }) => sum + (read ? length : 0), 0),
  };
}

function layerReport(
  { lower, digest, targetDigest }: MappedLower,
  { fetches }: DeviceActivity,
  runs: readonly DiskRun[],
): LayerReport {
  const { number, source, stored, target } = lower;
  const blobs = fetches.blobs.filter((blob) => blob.digest === digest || blob.digest === targetDigest);
  const mine = runs.filter(({ layer }) => layer === number);
  const parts = target === undefined ? [stored] : [stored, target];
  return {
    number,
    digest,
    place: source.kind === 'file' ? source.path : 'registry',
    size: parts.reduce((sum, { size }) => sum + size, 0),
    presentBytes: parts.reduce((sum, part) => sum + presentBytes(part), 0),
    fetchedBytes: blobs.reduce((sum, { bytes }) => sum + bytes.reduce((a, b) => a + b, 0), 0),
    requests: blobs.reduce((sum, { requests }) => sum + requests, 0),
    diskBytes: mine.reduce((sum, { length }) => sum + length, 0),
    readBytes: mine.reduce((sum, { read, length }) => sum + (read ? length : 0), 0),
  };
}

/** A local file is all here. */
function presentBytes(blob: { readonly size: number }): number {
  return 'presentBytes' in blob && typeof blob.presentBytes === 'number' ? blob.presentBytes : blob.size;
}

function withoutImage({ fetches }: DeviceActivity, reason: string): ImagePart {
  return {
    runs: [],
    layers: fetches.blobs.map(({ digest, size, bytes, requests }, number) => ({
      number,
      digest,
      place: 'registry',
      size,
      presentBytes: 0,
      fetchedBytes: bytes.reduce((a, b) => a + b, 0),
      requests,
      diskBytes: 0,
      readBytes: 0,
    })),
    files: noFiles(`the image cannot be opened: ${reason}`, []),
    stretches: [],
    writable: false,
    unavailable: reason,
  };
}

function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
