import { constants, type Stats } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import {
  FormatError,
  IoError,
  ioError,
  type LocalFile,
  type LocallyStored,
  type OverlaybdError,
  type ReadableBlob,
} from '../blob/index.js';
import { FileLock, lockFile } from '../native/index.js';

/**
 * A file that a writable layer reads and writes at any offset. As a blob it differs in one thing: its size grows with
 * what is written to it. Calls may overlap.
 */
export class RwFile implements ReadableBlob, LocallyStored {
  readonly name: string;
  readonly #handle: FileHandle;
  #size: number;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #closed: Promise<void> | undefined;
  #syncFailure: OverlaybdError | undefined;

  private constructor(name: string, handle: FileHandle, size: number) {
    this.name = name;
    this.#handle = handle;
    this.#size = size;
  }

  /**
   * Opens an existing file, or with `create` makes one that must not exist.
   * @throws IoError
   */
  static async open(path: string, mode: 'read' | 'write' | 'create', name: string = path): Promise<RwFile> {
    const flags =
      mode === 'read'
        ? constants.O_RDONLY
        : constants.O_RDWR | (mode === 'create' ? constants.O_CREAT | constants.O_EXCL : 0);
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, flags, 0o644);
      const stat = await handle.stat();
      if (!stat.isFile()) throw new Error('not a regular file');
      return new RwFile(name, handle, stat.size);
    } catch (error) {
      await handle?.close();
      throw ioError(error, `${mode === 'create' ? 'create' : 'open'} "${path}"`, path);
    }
  }

  get size(): number {
    return this.#size;
  }

  /** For native calls on the file; valid until it is closed. */
  get fd(): number {
    return this.#handle.fd;
  }

  /** Its size is that of now. */
  localFile(): LocalFile {
    return { fd: this.fd, shift: 0, size: this.#size, unitSize: 0, presence: null };
  }

  /**
   * Marks the file as in use until it is closed, by one writer or by readers (an advisory lock).
   * @throws IoError OBD_IO_FAILED if someone else has it.
   */
  lock(kind: 'read' | 'write'): void {
    if (lockFile(this.fd, kind === 'write' ? FileLock.EXCLUSIVE : FileLock.SHARED)) return;
    throw new IoError(
      'OBD_IO_FAILED',
      `Cannot open "${this.name}": it is in use by another process or device`,
      {
        source: this.name,
        hint: 'Detach the device that uses it first',
      },
    );
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#use(`read "${this.name}" at ${offset}`, async () => {
      for (let done = 0; done < into.byteLength;) {
        const left = into.byteLength - done;
        const { bytesRead } = await this.#handle.read(into, done, left, offset + done);
        if (bytesRead === 0)
          throw new FormatError(
            'OBD_FORMAT_TRUNCATED',
            `Cannot read "${this.name}": file ends at byte ${offset + done}, needed up to ${offset + into.byteLength}`,
            { source: this.name, offset: offset + done },
          );
        done += bytesRead;
      }
    });
  }

  /** Writes all of `from`; a failure may leave part of it written. */
  async write(offset: number, from: Uint8Array): Promise<void> {
    await this.#use(`write "${this.name}" at ${offset}`, async () => {
      for (let done = 0; done < from.byteLength;) {
        const left = from.byteLength - done;
        done += (await this.#handle.write(from, done, left, offset + done)).bytesWritten;
      }
      this.#size = Math.max(this.#size, offset + from.byteLength);
    });
  }

  /** Somebody else wrote to {@link fd}, up to there. */
  grewTo(size: number): void {
    this.#size = Math.max(this.#size, size);
  }

  async truncate(size: number): Promise<void> {
    await this.#use(`resize "${this.name}"`, async () => {
      await this.#handle.truncate(size);
      this.#size = size;
    });
  }

  /**
   * Settles once what was written, and the size, is on disk. Once this has failed it always will: the kernel may have
   * dropped the pages it could not write, and a second fdatasync would say that all is well.
   */
  async sync(): Promise<void> {
    if (this.#syncFailure !== undefined) throw this.#syncFailure;
    await this.#use(`flush "${this.name}"`, async () => {
      try {
        await this.#handle.datasync();
      } catch (error) {
        this.#syncFailure ??= ioError(error, `flush "${this.name}"`, this.name);
        throw error;
      }
    });
  }

  /** Bytes of the blocks that the file system keeps apart: holes are no finer than this. */
  async blockSize(): Promise<number> {
    return (await this.stat()).blksize;
  }

  /** Flushes fail from now on: what is on disk may not be what was written. */
  distrust(error: unknown): void {
    this.#syncFailure ??= ioError(error, `flush "${this.name}"`, this.name);
  }

  /** What the file system says about the open file. */
  async stat(): Promise<Stats> {
    const stats: Stats[] = [];
    await this.#use(`stat "${this.name}"`, async () => {
      stats.push(await this.#handle.stat());
    });
    const [first] = stats;
    if (first === undefined) throw new TypeError('Unreachable: stat gives one answer');
    return first;
  }

  /** Gives the file to a user and a group, if they are others, with a mode. */
  async setOwner(uid: number, gid: number, mode: number): Promise<void> {
    const now = await this.stat();
    await this.#use(`change the owner of "${this.name}"`, async () => {
      if (now.uid !== uid || now.gid !== gid) await this.#handle.chown(uid, gid);
      await this.#handle.chmod(mode);
    });
  }

  /** Runs one operation on the open file, so that `close` waits for it and errors are ours. */
  async #use(action: string, run: () => Promise<void>): Promise<void> {
    if (this.#closed !== undefined) throw new TypeError(`Use of "${this.name}" after close`);
    this.#inFlight++;
    try {
      await run();
    } catch (error) {
      throw ioError(error, action, this.name);
    } finally {
      if (--this.#inFlight === 0) this.#idle?.();
    }
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
      await this.#handle.close();
    })();
    return this.#closed;
  }
}
