/**
 * A file that appears whole or not at all: it is written under a temporary name beside its own, synced, and then given
 * its name. Without `replace` the name must be free, at the beginning and again at the end; nothing is ever written
 * over by accident.
 */
import { randomBytes } from 'node:crypto';
import { link, lstat, open, rename, unlink, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { IoError, ioError, isSystemError, type ByteSink } from '../blob/index.js';

/** How a file is made. */
export interface OutputOptions {
  /** Take the place of a file of this name. */
  readonly replace?: boolean;
  /** What to tell whoever finds the name taken. */
  readonly replaceHint?: string;
}

/** A file being written. It ends with {@link finish} or {@link discard}. */
export class OutputFile implements ByteSink {
  readonly path: string;
  /** Where the next {@link write} goes. */
  position = 0;
  readonly #temporary: string;
  readonly #options: OutputOptions;
  readonly #handle: FileHandle;
  #open = true;

  private constructor(path: string, temporary: string, handle: FileHandle, options: OutputOptions) {
    this.path = path;
    this.#temporary = temporary;
    this.#handle = handle;
    this.#options = options;
  }

  /** @throws IoError OBD_IO_EXISTS if the name is taken and not to be replaced. */
  static async create(path: string, options: OutputOptions = {}): Promise<OutputFile> {
    const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}`);
    try {
      if (options.replace !== true) await refuseExisting(path, options);
      return new OutputFile(path, temporary, await open(temporary, 'wx+', 0o644), options);
    } catch (error) {
      throw ioError(error, `create "${path}"`, path);
    }
  }

  /** Descriptor, for calls that need one. Owned by this object. */
  get fd(): number {
    return this.#handle.fd;
  }

  /** Where the bytes are until {@link finish}; for programs that write the file themselves. */
  get temporaryPath(): string {
    return this.#temporary;
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.writeAt(this.position, bytes);
    this.position += bytes.byteLength;
  }

  /** Writes somewhere else; {@link position} stays. */
  async writeAt(offset: number, bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.byteLength;)
        done += (await this.#handle.write(bytes, done, bytes.byteLength - done, offset + done)).bytesWritten;
    } catch (error) {
      throw ioError(error, `write "${this.path}"`, this.path);
    }
  }

  /** Gives the file a length; what is new is a hole. */
  async truncate(size: number): Promise<void> {
    try {
      await this.#handle.truncate(size);
    } catch (error) {
      throw ioError(error, `give "${this.path}" ${size} bytes`, this.path);
    }
  }

  /** Makes the file durable and gives it its name. @throws IoError; the file is discarded then. */
  async finish(): Promise<void> {
    try {
      await this.#handle.sync();
      await this.#close();
      if (this.#options.replace === true) await rename(this.#temporary, this.path);
      else await this.#claim();
      const directory = await open(dirname(this.path), 'r');
      await directory.sync().finally(() => directory.close());
    } catch (error) {
      await this.discard();
      throw ioError(error, `create "${this.path}"`, this.path);
    }
  }

  /** Leaves nothing behind. Idempotent, and harmless after {@link finish}. */
  async discard(): Promise<void> {
    await this.#close();
    await unlink(this.#temporary).catch(() => undefined);
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#handle.close();
  }

  async #claim(): Promise<void> {
    try {
      // A link never replaces anything, unlike a rename.
      await link(this.#temporary, this.path);
      await unlink(this.#temporary);
    } catch (error) {
      if (isSystemError(error) && error.code === 'EEXIST') throw exists(this.path, this.#options);
      if (!isSystemError(error) || !['EPERM', 'EOPNOTSUPP', 'ENOSYS'].includes(error.code)) throw error;
      await refuseExisting(this.path, this.#options);
      await rename(this.#temporary, this.path);
    }
  }
}

/**
 * Runs `fill` on a new file and finishes it, or discards it if that fails.
 * @throws what `fill` throws; IoError
 */
export async function writeOutput<T>(
  path: string,
  options: OutputOptions,
  fill: (output: OutputFile) => Promise<T>,
): Promise<T> {
  const output = await OutputFile.create(path, options);
  try {
    const result = await fill(output);
    await output.finish();
    return result;
  } finally {
    await output.discard();
  }
}

async function refuseExisting(path: string, options: OutputOptions): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (isSystemError(error) && error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (found !== undefined) throw exists(path, options);
}

function exists(path: string, options: OutputOptions): IoError {
  return new IoError('OBD_IO_EXISTS', `Cannot create "${path}": the file exists`, {
    source: path,
    ...(options.replaceHint === undefined ? {} : { hint: options.replaceHint }),
  });
}
