/** Chunks that can be passed over without being read: a file's, for one. */
export interface SkippableChunks extends AsyncIterable<Uint8Array> {
  /** Passes over up to `length` bytes that follow the last chunk given out; returns how many there were. */
  skip(length: number): number;
}

function isSkippable(chunks: AsyncIterable<Uint8Array>): chunks is SkippableChunks {
  return 'skip' in chunks;
}

/**
 * Pulls exact amounts out of a stream of chunks. Holds one chunk, and a copy only of what spans two.
 */
export class ByteReader {
  /** Bytes given out or skipped so far. */
  position = 0;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #skip: ((length: number) => number) | undefined;
  #chunk: Uint8Array = new Uint8Array();
  #ended = false;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
    this.#skip = isSkippable(chunks) ? (length) => chunks.skip(length) : undefined;
  }

  /** Makes the current chunk non-empty; false at the end of the stream. */
  async #fill(): Promise<boolean> {
    while (this.#chunk.byteLength === 0) {
      if (this.#ended) return false;
      const next = await this.#chunks.next();
      if (next.done === true) this.#ended = true;
      else this.#chunk = next.value;
    }
    return true;
  }

  #take(length: number): Uint8Array {
    const bytes = this.#chunk.subarray(0, length);
    this.#chunk = this.#chunk.subarray(length);
    this.position += bytes.byteLength;
    return bytes;
  }

  /** The next 1 to `max` bytes, without copying; undefined at the end. Valid until the stream's owner reuses them. */
  async some(max: number): Promise<Uint8Array | undefined> {
    if (this.#chunk.byteLength === 0 && !(await this.#fill())) return undefined;
    return this.#take(Math.min(max, this.#chunk.byteLength));
  }

  /** The next `length` bytes; fewer only at the end of the stream. */
  async exactly(length: number): Promise<Uint8Array> {
    if (this.#chunk.byteLength >= length) return this.#take(length);
    const bytes = new Uint8Array(length);
    let done = 0;
    while (done < length && (await this.#fill())) {
      const piece = this.#take(Math.min(length - done, this.#chunk.byteLength));
      bytes.set(piece, done);
      done += piece.byteLength;
    }
    return bytes.subarray(0, done);
  }

  /** Passes over `length` bytes; returns how many there were. */
  async skip(length: number): Promise<number> {
    let done = 0;
    if (this.#skip !== undefined && length > this.#chunk.byteLength) {
      done = this.#take(this.#chunk.byteLength).byteLength;
      const skipped = this.#skip(length - done);
      this.position += skipped;
      return done + skipped;
    }
    while (done < length && (await this.#fill()))
      done += this.#take(Math.min(length - done, this.#chunk.byteLength)).byteLength;
    return done;
  }

  /** Lets the stream's owner clean up. */
  async close(): Promise<void> {
    this.#chunk = new Uint8Array();
    this.#ended = true;
    await this.#chunks.return?.();
  }
}
