/** A raw disk image in a file, read and written in place; what is not stored is a hole. */
import { open, type FileHandle } from 'node:fs/promises';
import {
  checkRange,
  FormatError,
  ioError,
  type Extent,
  type ExtentMapped,
  type WritableBlob,
} from '../blob/index.js';
import { dataExtents, FileLock, lockFile, punchHole } from '../native/index.js';

const ZEROES = new Uint8Array(1 << 18);

/** A raw disk image. */
export class RawDisk implements WritableBlob, ExtentMapped {
  readonly name: string;
  readonly size: number;
  readonly #handle: FileHandle;
  #closed: Promise<void> | undefined;

  private constructor(name: string, size: number, handle: FileHandle) {
    this.name = name;
    this.size = size;
    this.#handle = handle;
  }

  /** @throws IoError, also if somebody else has it open for writing. */
  static async open(path: string, mode: 'read' | 'write' = 'write'): Promise<RawDisk> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, mode === 'write' ? 'r+' : 'r');
      const stat = await handle.stat();
      if (!stat.isFile()) throw new Error('it is not a regular file');
      if (!lockFile(handle.fd, mode === 'write' ? FileLock.EXCLUSIVE : FileLock.SHARED))
        throw new Error('it is in use by another process');
      return new RawDisk(path, stat.size, handle);
    } catch (error) {
      await handle?.close();
      throw ioError(error, `open disk "${path}"`, path);
    }
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    checkRange(this, offset, into.byteLength);
    for (let done = 0; done < into.byteLength;) {
      const { bytesRead } = await this.#handle.read(into, done, into.byteLength - done, offset + done);
      if (bytesRead === 0)
        throw new FormatError(
          'OBD_FORMAT_TRUNCATED',
          `Cannot read disk "${this.name}" at ${offset + done}: it ends`,
        );
      done += bytesRead;
    }
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    checkRange(this, offset, from.byteLength);
    try {
      for (let done = 0; done < from.byteLength;)
        done += (await this.#handle.write(from, done, from.byteLength - done, offset + done)).bytesWritten;
    } catch (error) {
      throw ioError(error, `write disk "${this.name}"`, this.name);
    }
  }

  async discard(offset: number, length: number): Promise<void> {
    checkRange(this, offset, length);
    if (await punchHole(this.#handle.fd, offset, length)) return;
    for (let done = 0; done < length; done += ZEROES.byteLength)
      await this.write(offset + done, ZEROES.subarray(0, Math.min(ZEROES.byteLength, length - done)));
  }

  async flush(): Promise<void> {
    try {
      await this.#handle.datasync();
    } catch (error) {
      throw ioError(error, `flush disk "${this.name}"`, this.name);
    }
  }

  *extents(offset: number, length: number): Generator<Extent> {
    checkRange(this, offset, length);
    const end = offset + length;
    let at = offset;
    for (const run of dataExtents(this.#handle.fd, offset, end)) {
      const stop = Math.min(end, run.offset + run.length);
      if (run.offset > at) yield { offset: at, length: run.offset - at, data: false };
      yield { offset: run.offset, length: stop - run.offset, data: true };
      at = stop;
    }
    if (at < end) yield { offset: at, length: end - at, data: false };
  }

  close(): Promise<void> {
    return (this.#closed ??= this.#handle.close());
  }
}
