/** Windows of a buffer. */
const WINDOWS = 4;

/**
 * Memory for the chunks of a stream, used in turn. A fresh buffer for each chunk would be memory that the garbage collector
 * counts and does not move: it would run for every few dozen megabytes of a stream, however little there is to collect.
 */
export class ChunkRing {
  readonly #window: number;
  readonly #count: number;
  readonly #buffers: Uint8Array[] = [];
  #buffer: Uint8Array = new Uint8Array();
  #turn = -1;
  #used = 0;

  /**
   * @param window most bytes of a chunk.
   * @param kept a chunk stays as it is until so many bytes were taken after it.
   */
  constructor(window: number, kept: number) {
    this.#window = window;
    // Less than a window of each buffer stays unused; one more is being filled, and one is where `kept` begins.
    this.#count = Math.ceil(kept / ((WINDOWS - 1) * window)) + 2;
  }

  /** Where the next chunk goes: a window of memory that holds anything. */
  room(): Uint8Array {
    if (this.#used + this.#window > this.#buffer.byteLength) {
      this.#turn = (this.#turn + 1) % this.#count;
      this.#buffers[this.#turn] ??= new Uint8Array(new ArrayBuffer(WINDOWS * this.#window));
      this.#buffer = this.#buffers[this.#turn] ?? this.#buffer;
      this.#used = 0;
    }
    return this.#buffer.subarray(this.#used, this.#used + this.#window);
  }

  /** Takes the first `length` bytes of the last {@link room} as a chunk. */
  take(length: number): Uint8Array {
    this.#used += length;
    return this.#buffer.subarray(this.#used - length, this.#used);
  }
}
