import { open, type FileHandle } from 'node:fs/promises';
import { FormatError, ioError } from './errors.js';
import type { LocalFile, LocallyStored } from './local-file.js';
import { dropScratch, takeScratch } from './scratch.js';
import { checkRange, type ReadableBlob } from './readable-blob.js';

/** Bytes of each end of a file that {@link FileBlob.keepEnds} keeps. */
const HEAD = 4 << 10;
const TAIL = 64 << 10;

/** The first and the last bytes of a file; of a small one, all of them. */
interface Ends {
  readonly head: Uint8Array<ArrayBuffer>;
  readonly tail: Uint8Array<ArrayBuffer>;
  /** Where the tail begins. */
  readonly tailAt: number;
}

/** A regular file, read at any offset. Its size is taken when it is opened. */
export class FileBlob implements ReadableBlob, LocallyStored {
  readonly name: string;
  readonly size: number;
  readonly #handle: FileHandle;
  #ends: Ends | undefined;
  #inFlight = 0;
  #closed: Promise<void> | undefined;
  #idle: (() => void) | undefined;

  private constructor(path: string, handle: FileHandle, size: number) {
    this.name = path;
    this.#handle = handle;
    this.size = size;
  }

  /** @throws IoError if the file is missing, unreadable or not a regular file. */
  static async open(path: string): Promise<FileBlob> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, 'r');
      const stat = await handle.stat();
      if (!stat.isFile()) throw new Error('not a regular file');
      return new FileBlob(path, handle, stat.size);
    } catch (error) {
      await handle?.close();
      throw ioError(error, `open "${path}"`, path);
    }
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    checkRange(this, offset, into.byteLength);
    if (this.#closed) throw new TypeError(`Read of "${this.name}" after close`);
    if (this.#ends !== undefined && takeFrom(this.#ends, offset, into)) return;
    this.#inFlight++;
    try {
      let done = 0;
      while (done < into.byteLength) {
        const { bytesRead } = await this.#handle.read(into, done, into.byteLength - done, offset + done);
        if (bytesRead === 0)
          throw new FormatError(
            'OBD_FORMAT_TRUNCATED',
            `Cannot read "${this.name}": file ends at byte ${offset + done}, it had ${this.size} when it was opened`,
            {
              source: this.name,
              offset: offset + done,
            },
          );
        done += bytesRead;
      }
    } catch (error) {
      throw ioError(error, `read "${this.name}" at ${offset}`, this.name);
    } finally {
      if (--this.#inFlight === 0) this.#idle?.();
    }
  }

  /**
   * Reads both ends of the file at once, and answers reads of them from memory until {@link forgetEnds}. Whoever opens a
   * format reads a header, a trailer and an index in many small pieces there, and each would cost a turn of the event
   * loop. Takes up to 68 KiB.
   * @throws IoError, FormatError OBD_FORMAT_TRUNCATED
   */
  async keepEnds(): Promise<void> {
    const small = this.size <= HEAD + TAIL;
    const tail = takeScratch(Math.min(this.size, small ? HEAD + TAIL : TAIL));
    const head = small ? tail : takeScratch(HEAD);
    const tailAt = this.size - tail.byteLength;
    await Promise.all([this.read(tailAt, tail), ...(small ? [] : [this.read(0, head)])]);
    this.#ends = { head, tail, tailAt };
  }

  /** Gives back the memory of {@link keepEnds}. Idempotent. */
  forgetEnds(): void {
    if (this.#ends === undefined) return;
    const { head, tail } = this.#ends;
    this.#ends = undefined;
    dropScratch(tail);
    if (head !== tail) dropScratch(head);
  }

  localFile(): LocalFile {
    return { fd: this.#handle.fd, shift: 0, size: this.size, unitSize: 0, presence: null };
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
      await this.#handle.close();
    })();
    return this.#closed;
  }
}

/** Fills `into` if one of the ends holds all of the range. */
function takeFrom({ head, tail, tailAt }: Ends, offset: number, into: Uint8Array): boolean {
  const end = offset + into.byteLength;
  if (offset >= tailAt) into.set(tail.subarray(offset - tailAt, end - tailAt));
  else if (end <= head.byteLength) into.set(head.subarray(offset, end));
  else return false;
  return true;
}
