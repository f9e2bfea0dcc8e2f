/**
 * One overlaybd layer of an ext4 image: LSMT, ZFile, tar wrapper, digest. Blocks of zeros are not stored: they become
 * zeroed entries where something lies below, and nothing where nothing does.
 *
 * The layer goes to a temporary file without a name, because the wrapper and the ZFile header in front state sizes that
 * are known at the end; the digest is taken from the finished file.
 */
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { abortedError, FileBlob, ioError, isSystemError, type ReadableBlob } from '../blob/index.js';
import { placedLayerHeader, placedLayerTail } from '../lsmt/index.js';
import { digestOfFile, type Ext4Image, type PackedRun } from '../native/index.js';
import { tarWrapperHead, tarWrapperTail, TAR_WRAPPER_HEAD } from '../tar/index.js';
import { ZFileFile, type ZFileTarget, type ZFileWriterOptions } from '../zfile/index.js';

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

/** A file for reading and writing that has no name: it is gone when it is closed, however the process ends. */
export async function namelessFile(directory: string): Promise<FileHandle> {
  const path = join(directory, `.obd-layer-${process.pid}-${process.hrtime.bigint()}`);
  try {
    const handle = await open(path, 'wx+', 0o600);
    await unlink(path);
    return handle;
  } catch (error) {
    throw ioError(error, `make a work file in "${directory}"`, directory);
  }
}

/** A layer blob in the making, in a file without a name. */
class LayerBlobFile implements ZFileTarget {
  readonly path: string;
  readonly #handle: FileHandle;

  constructor(handle: FileHandle, workDir: string) {
    this.#handle = handle;
    this.path = `a layer in ${workDir}`;
  }

  get fd(): number {
    return this.#handle.fd;
  }

  async writeAt(offset: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.byteLength;)
      done += (await this.#handle.write(bytes, done, bytes.byteLength - done, offset + done)).bytesWritten;
  }

  /** Puts the wrapper around the ZFile of `storedSize` bytes, and takes the digest of it all. */
  async finish(storedSize: number, dataSize: number): Promise<LayerFile> {
    const tail = tarWrapperTail(storedSize);
    const size = TAR_WRAPPER_HEAD + storedSize + tail.byteLength;
    await this.writeAt(size - tail.byteLength, tail);
    await this.writeAt(0, tarWrapperHead(storedSize));
    return {
      digest: `sha256:${await digestOfFile(this.fd, 0, size)}`,
      size,
      dataSize,
      blob: await FileBlob.open(`/proc/self/fd/${this.fd}`),
    };
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw abortedError('write a layer', signal);
}

/** Names what a system error was about. */
async function inWorkDir<T>(workDir: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw isSystemError(error) ? ioError(error, `write a layer in "${workDir}"`, workDir) : error;
  }
}

/**
 * The layer of an image that is packed while it is applied: begin, change the image, finish. File content goes straight
 * into the blob, so the image's work file holds metadata only, and nothing is copied twice.
 */
export class LayerWriter {
  readonly #image: Ext4Image;
  readonly #options: WriteLayerOptions;
  readonly #file: LayerBlobFile;
  readonly #zfile: ZFileFile;
  #open = true;

  private constructor(image: Ext4Image, options: WriteLayerOptions, file: LayerBlobFile, zfile: ZFileFile) {
    this.#image = image;
    this.#options = options;
    this.#file = file;
    this.#zfile = zfile;
  }

  /** Begins the layer of an image that was just formatted, or whose next layer was just begun. */
  static async begin(image: Ext4Image, options: WriteLayerOptions): Promise<LayerWriter> {
    const { workDir } = options;
    const file = new LayerBlobFile(await namelessFile(workDir), workDir);
    let zfile: ZFileFile | undefined;
    try {
      zfile = new ZFileFile(file, TAR_WRAPPER_HEAD, options.zfile);
      await zfile.write(placedLayerHeader({ ...options, virtualSize: image.size }));
      image.beginLayer(zfile.stream);
      return new LayerWriter(image, options, file, zfile);
    } catch (error) {
      zfile?.close();
      await file.close();
      throw error;
    }
  }

  /** Ends the layer: all that the image has to do with it, which can go on to its next one. */
  async end(): Promise<readonly PackedRun[]> {
    return inWorkDir(this.#options.workDir, async () => {
      const runs = await this.#image.endLayer();
      this.#open = false;
      return runs;
    });
  }

  /** Writes what is left of the blob, after {@link end}. @throws IoError, or FormatError OBD_FORMAT_LIMIT */
  async finish(runs: readonly PackedRun[]): Promise<LayerFile> {
    const { workDir, signal } = this.#options;
    return inWorkDir(workDir, async () => {
      const zfile = this.#zfile;
      const dataEnd = zfile.stream.position;
      const fields = { ...this.#options, virtualSize: this.#image.size };
      for (const part of placedLayerTail(runs, dataEnd, fields)) await zfile.write(part);
      checkAborted(signal);
      const storedSize = await zfile.finish();
      const dataSize = runs.reduce(
        (sum, { length, position }) => sum + (position === undefined ? 0 : length),
        0,
      );
      checkAborted(signal);
      return this.#file.finish(storedSize, dataSize);
    });
  }

  /** Gives back threads and file; after {@link finish} the blob stays. Without it, the image can only be closed. */
  async discard(): Promise<void> {
    if (this.#open) this.#image.abandonLayer();
    this.#open = false;
    this.#zfile.close();
    await this.#file.close();
  }
}

/**
 * Runs `apply`, which changes the image, and gives the layer of that. The blob is finished beside whatever the caller does with
 * the image: its last blocks, its index, its digest.
 * @throws what `apply` throws; the image can only be closed then
 */
export async function writeLayer<T>(
  image: Ext4Image,
  options: WriteLayerOptions,
  apply: () => Promise<T>,
): Promise<{ readonly file: Promise<LayerFile>; readonly result: T }> {
  const writer = await LayerWriter.begin(image, options);
  try {
    const result = await apply();
    const runs = await writer.end();
    const file = writer.finish(runs).finally(() => writer.discard());
    file.catch(() => undefined); // Reported where it is awaited, if it is.
    return { result, file };
  } catch (error) {
    await writer.discard();
    throw error;
  }
}
