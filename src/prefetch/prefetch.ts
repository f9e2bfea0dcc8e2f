/**
 * What a device does beside serving reads, by its configuration (service.md B.2, D.5):
 *
 *   accelerationLayer   TRACE = `trace` in the directory of the topmost lower
 *   recordTracePath     TRACE = that file
 *
 *   TRACE is missing: nothing;  empty: record (not in an acceleration layer);  a trace: replay;  else: a list of files
 *
 * It never stands in the way of the device: what is wrong with a trace is logged, and the image is served without.
 */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FormatError, IoError, ioError, isSystemError, type ReadableBlob } from '../blob/index.js';
import type { HostedImage, ImageConfig, OpenedLower } from '../image/index.js';
import type { Logger } from '../log/index.js';
import { findFiles, parseFileList, type DiskRange, type ListEntry } from './file-list.js';
import { planFetches, type Fetch, type TracedLayer } from './plan.js';
import { TraceRecording } from './recording.js';
import { replay, type Job, type ReplayProgress } from './replay.js';
import { TRACE_NAME } from './trace-layer.js';
import { isTrace, MAX_TRACE_BYTES, parseTrace, type TraceRecord } from './trace-file.js';

/** Options of {@link Prefetch}. */
export interface PrefetchOptions {
  readonly log: Logger;
  /** Fetches at once (`prefetchConfig.concurrency`). */
  readonly concurrency: number;
  /** Where a list of files puts its work file. Default the system's temporary directory. */
  readonly workDir?: string;
}

type Work =
  | { readonly kind: 'nothing' }
  | { readonly kind: 'record'; readonly recording: TraceRecording }
  | { readonly kind: 'replay'; readonly path: string; readonly records: readonly TraceRecord[] }
  | { readonly kind: 'files'; readonly path: string; readonly entries: readonly ListEntry[] };

/** One image's prefetch: made before the image is opened, started when it is, closed before it is closed. */
export class Prefetch {
  readonly #work: Work;
  readonly #options: PrefetchOptions;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #fetching = false;
  #progress: ReplayProgress = { jobs: 0, jobsDone: 0, failures: 0, bytes: 0 };

  private constructor(work: Work, options: PrefetchOptions) {
    this.#work = work;
    this.#options = options;
  }

  /** Looks at what there is to do; begins to record if that is it. Never rejects. */
  static async begin(config: ImageConfig, options: PrefetchOptions): Promise<Prefetch> {
    const path = tracePath(config);
    if (path === undefined) return new Prefetch({ kind: 'nothing' }, options);
    try {
      return new Prefetch(await choose(path, !config.accelerationLayer, options.log), options);
    } catch (error) {
      options.log.warn({ trace: path, err: error }, 'trace is not used');
      return new Prefetch({ kind: 'nothing' }, options);
    }
  }

  /** True if it is known what will be read. */
  get foretold(): boolean {
    return this.#work.kind === 'replay';
  }

  /** For `OpenImageOptions.tap`; undefined unless a trace is recorded. */
  get tap(): ((layer: number, blob: ReadableBlob) => ReadableBlob) | undefined {
    const work = this.#work;
    return work.kind === 'record' ? (layer, blob) => work.recording.tap(layer, blob) : undefined;
  }

  /** How far a replay is. */
  get progress(): ReplayProgress {
    return this.#progress;
  }

  /** True while something is fetched, or is to be. */
  get running(): boolean {
    return this.#fetching;
  }

  /** The image is open. */
  start(image: HostedImage): void {
    const work = this.#work;
    if (this.#running !== undefined || (work.kind !== 'replay' && work.kind !== 'files')) return;
    this.#running = this.#run(work, image).catch((error: unknown) => {
      if (!this.#stop.signal.aborted)
        this.#options.log.warn({ trace: work.path, err: error }, 'prefetch ended');
    });
  }

  /** Settles when there is nothing left to fetch. */
  async done(): Promise<void> {
    await this.#running;
  }

  /** The image did not open. Never rejects. */
  async abandon(): Promise<void> {
    if (this.#work.kind === 'record') await this.#work.recording.abandon();
  }

  /** Stops fetching, and writes the trace that was recorded. Idempotent; never rejects. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    if (this.#work.kind === 'record') await this.#work.recording.end();
  }

  async #run(work: Extract<Work, { path: string }>, image: HostedImage): Promise<void> {
    const { log, concurrency } = this.#options;
    const { signal } = this.#stop;
    const started = performance.now();
    const jobs =
      work.kind === 'replay' ? await this.#traceJobs(work, image) : await this.#fileJobs(work, image);
    this.#progress = { ...this.#progress, jobs: jobs.length };
    this.#fetching = true;
    const progress = await replay(jobs, {
      concurrency,
      log,
      signal,
      progress: (now) => (this.#progress = now),
    }).finally(() => (this.#fetching = false));
    if (signal.aborted) return;
    const ms = Math.round(performance.now() - started);
    log.info({ trace: work.path, ...progress, ms }, 'prefetch is done');
  }

  async #traceJobs(work: Extract<Work, { kind: 'replay' }>, image: HostedImage): Promise<Job[]> {
    const layers = image.lowers.flatMap((lower) => tracedLayer(lower) ?? []);
    const plan = await planFetches(work.records, layers, image.lowers.length, this.#stop.signal);
    if (plan.misfits > 0)
      this.#options.log.warn(
        { trace: work.path, records: plan.misfits, first: plan.firstMisfit },
        'records of the trace do not fit the image and are passed over: it is of another image',
      );
    for (const layer of layers) layer.blob.expect(plan.units.get(layer.number) ?? new Uint8Array());
    return plan.fetches.map(({ layer, offset, length }: Fetch) => ({
      length,
      run: (signal) => (layer as RemoteLayer).blob.prefetch(offset, length, { signal }),
      where: { layer: layer.number, offset, length },
    }));
  }

  async #fileJobs(work: Extract<Work, { kind: 'files' }>, image: HostedImage): Promise<Job[]> {
    const { log, workDir = tmpdir() } = this.#options;
    const ranges = await findFiles(work.entries, image.blob, { workDir, log, signal: this.#stop.signal });
    return ranges.map(({ offset, length }: DiskRange) => ({
      length,
      run: async (signal) => {
        const before = image.stats().bytesFetched;
        await image.blob.read(offset, new Uint8Array(length), { signal, cause: 'prefetch' });
        return image.stats().bytesFetched > before ? length : 0;
      },
      where: { offset, length },
    }));
  }
}

/** A layer whose stored blob is fetched through the cache. */
interface RemoteLayer extends TracedLayer {
  readonly blob: Prefetchable;
}

/** A cached blob; see src/cache. */
interface Prefetchable extends ReadableBlob {
  readonly unitSize: number;
  prefetch(offset: number, length: number, options: { readonly signal: AbortSignal }): Promise<number>;
  expect(units: Uint8Array): void;
}

function isPrefetchable(blob: ReadableBlob): blob is Prefetchable {
  return 'prefetch' in blob && 'expect' in blob;
}

function tracedLayer({ number, stored, blob, zfile, payloadOffset }: OpenedLower): RemoteLayer | undefined {
  if (!isPrefetchable(stored)) return undefined;
  return {
    number,
    blob: stored,
    size: blob.size,
    storedSize: stored.size,
    unitSize: stored.unitSize,
    stored(offset, length) {
      if (zfile === undefined) return { offset: payloadOffset + offset, length };
      const { blockSize } = zfile.end;
      const first = zfile.storedBlock(Math.floor(offset / blockSize));
      const last = zfile.storedBlock(Math.floor((offset + length - 1) / blockSize));
      return { offset: payloadOffset + first.offset, length: last.offset + last.length - first.offset };
    },
  };
}

function tracePath({ accelerationLayer, recordTracePath, lowers }: ImageConfig): string | undefined {
  if (recordTracePath !== '') return recordTracePath;
  const dir = accelerationLayer ? (lowers.at(-1)?.dir ?? '') : '';
  return dir === '' ? undefined : join(dir, TRACE_NAME);
}

async function choose(path: string, mayRecord: boolean, log: Logger): Promise<Work> {
  let file: FileHandle;
  try {
    // What an image unpacks beside its trace may be a link out of there, or a pipe.
    file = await open(
      path,
      constants.O_RDONLY | constants.O_NONBLOCK | (mayRecord ? 0 : constants.O_NOFOLLOW),
    );
  } catch (error) {
    if (isSystemError(error) && error.code === 'ENOENT') return { kind: 'nothing' };
    throw ioError(error, `open trace "${path}"`, path);
  }
  let bytes: Buffer;
  try {
    const stat = await file.stat();
    if (!stat.isFile())
      throw new IoError('OBD_IO_FAILED', `Cannot use trace "${path}": not a regular file`, { source: path });
    if (stat.size > MAX_TRACE_BYTES)
      throw new FormatError(
        'OBD_FORMAT_LIMIT',
        `Cannot use trace "${path}": it has ${stat.size} bytes, expected at most ${MAX_TRACE_BYTES}`,
        { source: path, expected: MAX_TRACE_BYTES, actual: stat.size },
      );
    bytes = await file.readFile();
  } finally {
    await file.close();
  }
  if (bytes.byteLength === 0)
    return mayRecord
      ? { kind: 'record', recording: await TraceRecording.begin(path, { log }) }
      : { kind: 'nothing' };
  return isTrace(bytes)
    ? { kind: 'replay', path, records: parseTrace(bytes, path) }
    : { kind: 'files', path, entries: parseFileList(bytes, path) };
}
