/**
 * One overlaybd layer from what changed in an ext4 image: LSMT commit, ZFile, tar wrapper, digest. Blocks of zeros are
 * not stored: they become zeroed entries where something lies below, and nothing where nothing does.
 *
 * The layer goes to a temporary file without a name, because the wrapper and the ZFile header in front state sizes that
 * are known at the end; the digest is taken from the finished file.
 */
import { createHash } from 'node:crypto';
import { read } from 'node:fs';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  abortedError,
  checkRange,
  FileBlob,
  FormatError,
  ioError,
  isSystemError,
  SECTOR,
  type ByteSink,
  type ReadableBlob,
} from '../blob/index.js';
import { commitLayer, setSegment, SEGMENT_WORDS, type CommitSource, type Segments } from '../lsmt/index.js';
import type { ChangedRun, Ext4Image } from '../native/index.js';
import { tarWrapperHead, tarWrapperTail, TAR_WRAPPER_HEAD } from '../tar/index.js';
import { ZFileWriter, type ZFileWriterOptions } from '../zfile/index.js';

/** What goes into a layer's header, and how it is packed. */
export interface WriteLayerOptions {
  /** Directory of the temporary file. */
  readonly workDir: string;
  readonly uuid: string | null;
  readonly parentUuid: string | null;
  readonly zfile?: ZFileWriterOptions;
  readonly signal?: AbortSignal;
}

/** A finished layer blob. */
export interface LayerFile {
  readonly digest: string;
  readonly size: number;
  /** Bytes of changed blocks stored in it, before compression. */
  readonly dataSize: number;
  /** The blob; its file vanishes when it is closed. The caller closes it. */
  readonly blob: ReadableBlob;
}

/** Whole sectors of a segment, a multiple of the file system's block: 14 bits would hold 16383. */
const RUN_SECTORS = 16376;
const COPY = 1024 * 1024;
const readFd = promisify(read);

/** The ext4 image's work file as a blob. */
class ImageBlob implements ReadableBlob {
  readonly name = 'ext4 work file';
  readonly size: number;
  readonly #fd: number;

  constructor(image: Ext4Image) {
    this.size = image.size;
    this.#fd = image.fd;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    checkRange(this, offset, into.byteLength);
    let done = 0;
    while (done < into.byteLength) {
      const { bytesRead } = await readFd(this.#fd, into, done, into.byteLength - done, offset + done);
      if (bytesRead === 0)
        throw new FormatError(
          'OBD_FORMAT_TRUNCATED',
          `Cannot read the ext4 work file at ${offset + done}: it ends`,
        );
      done += bytesRead;
    }
  }

  /** The image owns the file. */
  close(): Promise<void> {
    return Promise.resolve();
  }
}

function segmentsOf(runs: readonly ChangedRun[]): Segments {
  let count = 0;
  for (const run of runs) count += Math.ceil(run.length / SECTOR / RUN_SECTORS);
  const words = new Uint32Array(count * SEGMENT_WORDS);
  let i = 0;
  for (const { offset, length, zero } of runs) {
    const end = (offset + length) / SECTOR;
    for (let at = offset / SECTOR; at < end; at += RUN_SECTORS)
      setSegment(words, i++, at, Math.min(RUN_SECTORS, end - at), at, zero, 0);
  }
  return { words, count };
}

/** What the current layer of a flushed image changed, as something to commit. */
export function imageSource(image: Ext4Image, runs: readonly ChangedRun[]): CommitSource {
  return {
    name: 'ext4 image',
    info: { virtualSize: image.size, parentUuid: null },
    files: [{ blob: new ImageBlob(image), padsLastSector: false }],
    segments: () => segmentsOf(runs),
  };
}

/** Appends to a file behind a gap. */
class FileSink implements ByteSink {
  readonly #handle: FileHandle;
  position: number;

  constructor(handle: FileHandle, position: number) {
    this.#handle = handle;
    this.position = position;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.byteLength;) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.byteLength - done, this.position);
      done += bytesWritten;
      this.position += bytesWritten;
    }
  }
}

/** One buffer is read while the other is hashed. */
async function digestOfFile(
  handle: FileHandle,
  size: number,
  signal: AbortSignal | undefined,
): Promise<string> {
  const hash = createHash('sha256');
  const buffers = [Buffer.allocUnsafe(COPY), Buffer.allocUnsafe(COPY)] as const;
  const readAt = async (at: number): Promise<Buffer> => {
    const buffer = buffers[(at / COPY) % 2 === 0 ? 0 : 1].subarray(0, Math.min(COPY, size - at));
    for (let done = 0; done < buffer.byteLength;) {
      const { bytesRead } = await handle.read(buffer, done, buffer.byteLength - done, at + done);
      if (bytesRead === 0)
        throw new FormatError('OBD_FORMAT_TRUNCATED', `Cannot read the new layer at ${at + done}: it ends`);
      done += bytesRead;
    }
    return buffer;
  };
  let next = readAt(0);
  for (let at = 0; at < size; at += COPY) {
    const buffer = await next;
    if (signal?.aborted === true) throw abortedError('digest of a layer', signal);
    if (at + COPY < size) {
      next = readAt(at + COPY);
      next.catch(() => undefined); // Reported by the await above.
    }
    hash.update(buffer);
  }
  return `sha256:${hash.digest('hex')}`;
}

/** A file for reading and writing that has no name: it is gone when it is closed, however the process ends. */
async function namelessFile(directory: string): Promise<FileHandle> {
  const path = join(directory, `.obd-layer-${process.pid}-${process.hrtime.bigint()}`);
  try {
    const handle = await open(path, 'wx+', 0o600);
    await unlink(path);
    return handle;
  } catch (error) {
    throw ioError(error, `make a work file in "${directory}"`, directory);
  }
}

/** Writes a layer blob with the content of `source`. */
export async function packLayer(source: CommitSource, options: WriteLayerOptions): Promise<LayerFile> {
  const { signal } = options;
  const handle = await namelessFile(options.workDir);
  try {
    const sink = new FileSink(handle, TAR_WRAPPER_HEAD);
    const zfile = new ZFileWriter(sink, options.zfile);
    const commit = await commitLayer(source, zfile, {
      uuid: options.uuid,
      parentUuid: options.parentUuid,
      ...(signal && { signal }),
    });
    const { finalHeader, storedSize } = await zfile.finish();
    await sink.write(tarWrapperTail(storedSize));
    const size = sink.position;
    await new FileSink(handle, 0).write(tarWrapperHead(storedSize));
    await new FileSink(handle, TAR_WRAPPER_HEAD).write(finalHeader);
    return {
      digest: await digestOfFile(handle, size, signal),
      size,
      dataSize: commit.dataSize,
      blob: await FileBlob.open(`/proc/self/fd/${handle.fd}`),
    };
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw ioError(error, `write a layer in "${options.workDir}"`, options.workDir);
  } finally {
    await handle.close();
  }
}

/** Flushes the image and writes what its current layer changed. */
export async function writeLayer(image: Ext4Image, options: WriteLayerOptions): Promise<LayerFile> {
  await image.flush();
  return packLayer(imageSource(image, await image.changes()), options);
}
