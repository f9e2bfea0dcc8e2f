/**
 * An OCI layer onto the ext4 of a disk, whoever made it: what overlaybd-apply does.
 *
 *   this thread                                 apply-worker.ts
 *   disk (stack of layers, or a raw file)  ◄──  Ext4Image over a socket: fetches the blocks it needs, keeps what it writes
 *                                               tar members ─► image ─► flush ─► what changed
 *   changed blocks ─► disk ─► flush        ◄──
 *
 * The disk is written at the end only, so a layer that turns out to be bad leaves it as it was. A disk whose writes are
 * appended to a file gets the changed blocks written there by the thread, where nothing shows them, and at the end only
 * their index: they are copied once less.
 */
import { Worker } from 'node:worker_threads';
import {
  abortedError,
  extentsOf,
  OverlaybdError,
  type ReadableBlob,
  type WritableBlob,
} from '../blob/index.js';
import type { LayerCounts } from '../ocilayer/index.js';
import { WritableLayerStack, type Placement } from '../lsmt/index.js';
import { ext4SourcePair, type ChangedRun, type PackedRun } from '../native/index.js';
import type { ApplyJob, ApplyNews } from './apply-worker.js';
import { BlockSource, dataRuns } from './block-source.js';
import { readWorkFile } from './work-file.js';

/** How to apply. */
export interface ApplyLayerOptions {
  /** Where the work file goes: room for what the layer holds, and holes. */
  readonly workDir: string;
  /** Make a new file system first; what was on the disk is gone then. */
  readonly mkfs?: boolean;
  /** `sha256:...` that the plain tar must have. */
  readonly checksum?: string;
  readonly warn?: (message: string) => void;
  readonly signal?: AbortSignal;
}

/** What was done. */
export interface AppliedLayer extends LayerCounts {
  /** Bytes of the disk that were changed. */
  readonly changed: number;
}

const STEP = 1 << 20;

/**
 * Applies the layer in the file `input` (tar, tar.gz, tar.zst; may be a FIFO) to the disk, durably.
 * @throws ConvertError if the layer is bad or the disk's file system cannot take it: the disk is unchanged then.
 */
export async function applyLayerFile(
  disk: WritableBlob,
  input: string,
  options: ApplyLayerOptions,
): Promise<AppliedLayer> {
  if (options.signal?.aborted === true) throw abortedError('apply a layer', options.signal);
  const job: ApplyJob = {
    // ext4 has whole blocks.
    size: disk.size - (disk.size % 4096),
    workDir: options.workDir,
    input,
    ...(options.checksum === undefined ? {} : { checksum: options.checksum }),
  };
  return onPlace(disk, async (place) => {
    const placed = place === undefined ? job : { ...job, place: { ...placeOf(place), file: disk.name } };
    if (options.mkfs === true) return run(disk, placed, { place }, options);
    const runs = dataRuns(extentsOf(disk, 0, job.size));
    const pair = ext4SourcePair();
    const source = new BlockSource(pair.server, disk);
    try {
      return await run(disk, { ...placed, below: { fd: pair.image, runs } }, { place, source }, options);
    } finally {
      await source.close();
    }
  });
}

/** The part of a placement that can be posted. */
function placeOf({ fd, offset }: Placement): { fd: number; offset: number } {
  return { fd, offset };
}

/** Runs `work` with a place for data, if the disk has one, which is left as it was if the work fails. */
async function onPlace<T>(
  disk: WritableBlob,
  work: (place: Placement | undefined) => Promise<T>,
): Promise<T> {
  const place = disk instanceof WritableLayerStack ? disk.place() : undefined;
  try {
    return await work(place);
  } catch (error) {
    await place?.abandon();
    throw error;
  }
}

async function run(
  disk: WritableBlob,
  job: ApplyJob,
  { place, source }: { readonly place: Placement | undefined; readonly source?: BlockSource },
  options: ApplyLayerOptions,
): Promise<AppliedLayer> {
  const thread = new Worker(new URL('./apply-worker.js', import.meta.url), { workerData: job });
  const ended = new Promise<void>((resolve) =>
    thread.once('exit', () => {
      resolve();
    }),
  );
  const stop = (): void => {
    // The thread may be waiting for an answer, in a call that only the end of the source ends.
    void source?.close();
    void thread.terminate();
  };
  options.signal?.addEventListener('abort', stop, { once: true });
  try {
    const news = await outcome(thread, options);
    if (news.kind === 'failed') throw errorOf(news, source?.failure);
    if (options.mkfs === true) await clearRange(disk, 0, disk.size);
    const changed =
      'fd' in news
        ? await copyRuns(news.fd, news.runs, disk, options.signal)
        : await showPlaced(place, news.placed, news.length);
    await disk.flush();
    thread.postMessage('close');
    await ended;
    return { ...news.counts, changed };
  } finally {
    options.signal?.removeEventListener('abort', stop);
    stop();
    await ended;
  }
}

type LastWord = Extract<ApplyNews, { kind: 'done' | 'failed' }>;

function outcome(thread: Worker, options: ApplyLayerOptions): Promise<LastWord> {
  return new Promise((resolve, reject) => {
    thread.on('message', (news: ApplyNews) => {
      if (news.kind === 'warning') options.warn?.(news.message);
      else resolve(news);
    });
    thread.once('error', reject);
    thread.once('exit', () => {
      reject(
        options.signal?.aborted === true
          ? abortedError('apply a layer', options.signal)
          : new Error('The thread that applies the layer ended unexpectedly'),
      );
    });
  });
}

function errorOf(news: Extract<ApplyNews, { kind: 'failed' }>, cause: unknown): Error {
  if (news.code === undefined) return new Error(news.message, { cause });
  return new OverlaybdError(news.code, news.message, {
    ...(news.hint === undefined ? {} : { hint: news.hint }),
    ...(cause === undefined ? {} : { cause }),
  });
}

async function showPlaced(
  place: Placement | undefined,
  runs: readonly PackedRun[],
  length: number,
): Promise<number> {
  if (place === undefined) throw new TypeError('Unreachable: the thread was told of a place');
  await place.finish(runs, length);
  return runs.reduce((sum, run) => sum + run.length, 0);
}

/** Makes a part of a disk read as zeroes. */
export async function clearRange(disk: WritableBlob, offset: number, length: number): Promise<void> {
  // Collected first: the extents are those of the index that the discards change.
  const runs = dataRuns(extentsOf(disk, offset, length));
  for (let i = 0; i < runs.length; i += 2) await disk.discard(runs[i] ?? 0, runs[i + 1] ?? 0);
}

async function copyRuns(
  fd: number,
  runs: readonly ChangedRun[],
  disk: WritableBlob,
  signal: AbortSignal | undefined,
): Promise<number> {
  // One is read while the other is written.
  const buffers = [new Uint8Array(STEP), new Uint8Array(STEP)] as const;
  let turn = 0;
  let writing: Promise<void> = Promise.resolve();
  let changed = 0;
  try {
    for (const { offset, length, zero } of runs) {
      changed += length;
      if (zero) {
        await writing;
        await disk.discard(offset, length);
        continue;
      }
      for (let at = offset; at < offset + length; at += STEP) {
        if (signal?.aborted === true) throw abortedError('apply a layer', signal);
        const bytes = buffers[turn === 0 ? 0 : 1].subarray(0, Math.min(STEP, offset + length - at));
        turn ^= 1;
        await readWorkFile(fd, at, bytes);
        await writing;
        writing = disk.write(at, bytes);
        // Its failure is reported by the await above or below; until then it is not unhandled.
        writing.catch(() => undefined);
      }
    }
  } finally {
    await writing;
  }
  return changed;
}

/** Writes all of one disk onto another, which is at least as large; what is a hole there becomes one here. */
export async function copyDisk(
  from: ReadableBlob,
  disk: WritableBlob,
  signal?: AbortSignal,
): Promise<number> {
  await clearRange(disk, 0, disk.size);
  const buffer = new Uint8Array(STEP);
  const runs = dataRuns(extentsOf(from, 0, from.size));
  let copied = 0;
  for (let i = 0; i < runs.length; i += 2) {
    const start = runs[i] ?? 0;
    const end = start + (runs[i + 1] ?? 0);
    for (let at = start; at < end; at += STEP) {
      if (signal?.aborted === true) throw abortedError('copy a disk', signal);
      const length = Math.min(STEP, end - at);
      const whole = Math.ceil(length / 512) * 512;
      buffer.fill(0, length, whole);
      await from.read(at, buffer.subarray(0, length));
      await disk.write(at, buffer.subarray(0, whole));
      copied += length;
    }
  }
  await disk.flush();
  return copied;
}
