/**
 * The thread of apply-layer.ts: opens or formats the file system, puts the layer's members into it, and says what that
 * changed. The changed bytes are in the image's work file, whose descriptor the whole process can read; or, if the thread
 * was told of a place for them, there.
 */
import { constants, openSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Socket } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import {
  ConvertError,
  fileChunks,
  ioError,
  isSystemError,
  OverlaybdError,
  type ErrorCode,
} from '../blob/index.js';
import { applyLayer, PLAIN_KEPT, unpackLayer, type LayerCounts } from '../ocilayer/index.js';
import {
  Ext4Image,
  StreamDigest,
  UNPACKED,
  ZFileStream,
  type ChangedRun,
  type PackedRun,
} from '../native/index.js';
import { readTar } from '../tar/index.js';

/** What the thread is started with. */
export interface ApplyJob {
  /** Bytes of the file system: whole blocks of 4 KiB. */
  readonly size: number;
  readonly workDir: string;
  /** Path of the layer: plain, gzip or zstd; may be a FIFO. */
  readonly input: string;
  /** Where the disk as it is can be asked for; absent: format it. */
  readonly below?: { readonly fd: number; readonly runs: Float64Array };
  /** `sha256:...` of the plain tar. */
  readonly checksum?: string;
  /** Where the changed bytes go. */
  readonly place?: Place;
}

/** A part of an open file. */
interface Place {
  readonly fd: number;
  readonly offset: number;
  /** How errors name the file. */
  readonly file: string;
}

/** Of the file system. */
const BLOCK = 4096;

/** What the thread says; its last word is `done` or `failed`. */
export type ApplyNews =
  | { readonly kind: 'warning'; readonly message: string }
  | ({ readonly kind: 'done'; readonly counts: LayerCounts } & (
      | { readonly fd: number; readonly runs: readonly ChangedRun[] }
      | { readonly placed: readonly PackedRun[]; readonly length: number }
    ))
  | { readonly kind: 'failed'; readonly code?: ErrorCode; readonly message: string; readonly hint?: string };

if (parentPort === null) throw new TypeError('apply-worker is a thread, not a program');
const port = parentPort;
const say = (news: ApplyNews): void => {
  port.postMessage(news);
};

/** A FIFO is waited for without blocking: opening it in the usual way would hold a thread until a writer comes. */
async function openInput(path: string): Promise<AsyncIterable<unknown>> {
  if (!(await stat(path)).isFIFO()) return fileChunks(path, PLAIN_KEPT);
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return new Socket({ fd, readable: true, writable: false });
}

async function* chunksOf(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for await (const chunk of await openInput(path)) yield chunk as Uint8Array;
  } catch (error) {
    throw isSystemError(error) ? ioError(error, `read "${path}"`, path) : error;
  }
}

async function* hashed(
  path: string,
  checksum: string | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const hash = checksum === undefined ? undefined : new StreamDigest('sha256');
  for await (const chunk of unpackLayer(chunksOf(path), path)) {
    await hash?.update(chunk);
    yield chunk;
  }
  const actual = hash === undefined ? undefined : `sha256:${await hash.end()}`;
  if (actual !== checksum)
    throw new ConvertError(
      'OBD_CONVERT_BAD_TAR',
      `Cannot apply layer "${path}": its plain content is ${actual ?? ''}, expected ${checksum ?? ''}`,
      { source: path },
    );
}

/** The work file holds metadata only then: content is written once, by another thread, while the next is read. */
async function applyInto(
  { fd, offset, file }: Place,
  image: Ext4Image,
  apply: () => Promise<LayerCounts>,
): Promise<void> {
  const stream = new ZFileStream(fd, offset, UNPACKED, BLOCK);
  let open = true;
  try {
    image.beginLayer(stream);
    const counts = await apply();
    const placed = await image.endLayer();
    open = false;
    const { plainSize: length } = await stream.finish().catch((error: unknown) => {
      throw ioError(error, `write "${file}"`, file);
    });
    say({ kind: 'done', placed, length, counts });
  } finally {
    if (open) image.abandonLayer();
    stream.close();
  }
}

async function run(job: ApplyJob): Promise<Ext4Image> {
  const image =
    job.below === undefined
      ? await Ext4Image.format(job.workDir, job.size)
      : await Ext4Image.open(job.workDir, job.size, job.below.fd, job.below.runs);
  const apply = (): Promise<LayerCounts> =>
    applyLayer(image, readTar(hashed(job.input, job.checksum), job.input), {
      warn: (message) => {
        say({ kind: 'warning', message });
      },
    });
  try {
    if (job.place !== undefined) {
      await applyInto(job.place, image, apply);
      return image;
    }
    const counts = await apply();
    await image.flush();
    say({ kind: 'done', fd: image.fd, runs: await image.changes(), counts });
    return image;
  } catch (error) {
    image.close();
    throw error;
  }
}

try {
  const image = await run(workerData as ApplyJob);
  // The work file is needed until the starter says that it is not.
  port.once('message', () => {
    image.close();
    port.close();
  });
} catch (error) {
  const known = error instanceof OverlaybdError;
  say({
    kind: 'failed',
    message: error instanceof Error ? error.message : String(error),
    ...(known && { code: error.code }),
    ...(known && error.hint !== undefined && { hint: error.hint }),
  });
  port.close();
}
