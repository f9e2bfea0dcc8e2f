import { createHash, type Hash } from 'node:crypto';
import type { ReadableBlob, ReadOptions } from '../blob/index.js';

/** Bytes read ahead at once. */
const CHUNK = 1 << 20;
/** Chunks kept: a reader may step back this far without reading again. */
const CHUNKS = 3;

/**
 * A blob that is hashed while somebody reads it from front to back, so that a remote one is fetched once for digest
 * and contents together. Reads near the front of what has been hashed are served from there and move it on; others go
 * straight through. One read at a time.
 */
export class HashingBlob implements ReadableBlob {
  readonly name: string;
  readonly size: number;
  readonly #inner: ReadableBlob;
  readonly #hash: Hash;
  readonly #onProgress: (hashed: number) => void;
  /** The last chunks, adjacent; the newest ends at `#at`. */
  #window: Uint8Array[] = [];
  #start = 0;
  #at = 0;

  /** @param digest `sha256:...` or `sha512:...`; only its algorithm is used. */
  constructor(inner: ReadableBlob, digest: string, onProgress: (hashed: number) => void = () => undefined) {
    this.name = inner.name;
    this.size = inner.size;
    this.#inner = inner;
    this.#hash = createHash(digest.startsWith('sha512:') ? 'sha512' : 'sha256');
    this.#onProgress = onProgress;
  }

  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    const end = offset + into.byteLength;
    if (offset < this.#start || offset > this.#at + CHUNK || into.byteLength > CHUNK || end > this.size) {
      await this.#inner.read(offset, into, options);
      return;
    }
    while (this.#at < end) await this.#advance(options);
    let at = this.#start;
    for (const chunk of this.#window) {
      const from = Math.max(offset, at);
      const to = Math.min(end, at + chunk.byteLength);
      if (from < to) into.set(chunk.subarray(from - at, to - at), from - offset);
      at += chunk.byteLength;
    }
  }

  /** Hashes what is left; the digest's hex digits. Once. */
  async finish(options?: ReadOptions): Promise<string> {
    while (this.#at < this.size) await this.#advance(options);
    return this.#hash.digest('hex');
  }

  close(): Promise<void> {
    this.#window = [];
    return this.#inner.close();
  }

  async #advance(options?: ReadOptions): Promise<void> {
    const recycled = this.#window.length === CHUNKS ? this.#window.shift() : undefined;
    if (recycled !== undefined) this.#start += recycled.byteLength;
    const length = Math.min(CHUNK, this.size - this.#at);
    const chunk = recycled?.byteLength === length ? recycled : new Uint8Array(length);
    await this.#inner.read(this.#at, chunk, options);
    this.#hash.update(chunk);
    this.#window.push(chunk);
    this.#at += length;
    this.#onProgress(this.#at);
  }
}
