import { addon } from './addon.js';
import type { FilePosition } from './file.js';

/** The class of bind_digest.cc, as it is. */
export interface NativeDigest {
  update(parts: readonly Uint8Array[]): Promise<void>;
  file(fd: number, offset: number, length: number): Promise<void>;
  end(): string;
}

/** Bytes that may wait for the hash: beyond this update() asks to be waited for. */
export const MOST_WAITING = 4 * 1024 * 1024;

/**
 * sha256 or sha512 of a stream, taken by another thread beside whatever the caller does with the bytes. Holds at most
 * 4 MiB and one part that are not hashed yet, if the caller waits when it is told to.
 */
export class StreamDigest {
  readonly #native: NativeDigest;
  #waiting: Uint8Array[] = [];
  #bytes = 0;
  #running: Promise<void> | undefined;
  #failure: { readonly error: unknown } | undefined;

  constructor(algorithm: 'sha256' | 'sha512') {
    this.#native = new addon.Digest(algorithm);
  }

  /**
   * Takes the next bytes, which must not change until {@link MOST_WAITING} more were taken. A promise means: wait for it
   * before the next call. It does not reject.
   */
  update(bytes: Uint8Array): Promise<void> | undefined {
    this.#waiting.push(bytes);
    this.#bytes += bytes.byteLength;
    this.#running ??= this.#run();
    return this.#bytes > MOST_WAITING ? this.#running : undefined;
  }

  /** Takes bytes of an open file, which stays open until the promise settles. @throws a system error, ENODATA */
  async updateFromFile(from: FilePosition, length: number): Promise<void> {
    await this.#running;
    await this.#native.file(from.fd, from.offset, length);
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const parts = this.#waiting;
      const bytes = this.#bytes;
      this.#waiting = [];
      try {
        await this.#native.update(parts);
      } catch (error) {
        this.#failure ??= { error };
      }
      this.#bytes -= bytes;
    }
    this.#running = undefined;
  }

  /** The digest in hex; nothing can be added afterwards. @throws what failed since the beginning */
  async end(): Promise<string> {
    await this.#running;
    if (this.#failure !== undefined) throw this.#failure.error;
    return this.#native.end();
  }
}

/**
 * sha256 of a part of an open file, in hex, taken by another thread. The descriptor must stay open until then.
 * @throws a system error; ENODATA if the file ends before.
 */
export async function digestOfFile(fd: number, offset: number, length: number): Promise<string> {
  const digest = new addon.Digest('sha256');
  await digest.file(fd, offset, length);
  return digest.end();
}
