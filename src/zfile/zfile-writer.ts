/**
 * Writes a ZFile as a stream: header, blocks, jump table, trailer, in that order and never back. The header is written
 * with empty numbers, as the trailer counts; a caller that can go back puts {@link ZFileSummary.finalHeader} at offset
 * 0, and readers then need no trailer. The bytes do not depend on how the plain data was cut into writes.
 *
 * Plain bytes are gathered into batches, which are packed by native threads ({@link packBlocks}), a bounded number at
 * a time, and leave in order. Memory: (IN_FLIGHT + 1) batches, plus 4 bytes per block for the jump table.
 */
import type { ByteSink } from '../blob/index.js';
import { Codec, crc32c, packBlocks } from '../native/index.js';
import {
  checkBlockSize,
  encodeZFileEnd,
  FINAL_HEADER_FLAGS,
  INITIAL_HEADER_FLAGS,
  LEAST_BLOCK_SIZE,
  TRAILER_FLAGS,
  ZFILE_END_SIZE,
  type ZFileEnd,
} from './format.js';

/** Plain bytes packed by one native call; a multiple of every block size. */
const BATCH_BYTES = 512 * 1024;
/** Batches in the hands of native threads at once: libuv has four. */
const IN_FLIGHT = 4;

/** How to write. */
export interface ZFileWriterOptions {
  /** Default LZ4. */
  readonly codec?: Codec;
  /**
   * A power of two from 4 KiB (default) to 64 KiB. Files with 64 KiB blocks that do not compress cannot be read by the
   * C++ reader: its buffer is exactly 64 KiB.
   */
  readonly blockSize?: number;
}

/** What came out. */
export interface ZFileSummary {
  /** Bytes given to the sink. */
  readonly storedSize: number;
  readonly plainSize: number;
  readonly blocks: number;
  /** The header with final values, to overwrite the first 512 bytes with, where that is possible. */
  readonly finalHeader: Uint8Array;
}

interface Batch {
  readonly packed: Promise<{ readonly stored: Uint8Array; readonly lengths: Uint8Array }>;
}

/** One ZFile being written. `write` and `finish` are called one at a time. After an error nothing more is accepted. */
export class ZFileWriter {
  readonly #sink: ByteSink;
  readonly #codec: Codec;
  readonly #blockSize: number;
  readonly #pending: Batch[] = [];
  readonly #lengths: Uint8Array[] = [];
  #batch = Buffer.allocUnsafeSlow(BATCH_BYTES);
  #filled = 0;
  #plainSize = 0;
  #storedSize = 0;
  #state: 'new' | 'open' | 'finished' | 'failed' = 'new';

  /** @throws RangeError if the block size is not allowed. */
  constructor(sink: ByteSink, options: ZFileWriterOptions = {}) {
    this.#sink = sink;
    this.#codec = options.codec ?? Codec.LZ4;
    this.#blockSize = options.blockSize ?? LEAST_BLOCK_SIZE;
    checkBlockSize(this.#blockSize);
  }

  /** Appends plain bytes; they may be changed once the promise settles. Waits when too much is on its way. */
  async write(plain: Uint8Array): Promise<void> {
    await this.#step(async () => {
      for (let at = 0; at < plain.byteLength;) {
        const take = Math.min(BATCH_BYTES - this.#filled, plain.byteLength - at);
        this.#batch.set(plain.subarray(at, at + take), this.#filled);
        this.#filled += take;
        at += take;
        if (this.#filled === BATCH_BYTES) await this.#pack();
      }
      this.#plainSize += plain.byteLength;
    });
  }

  /** Writes what is left, the jump table and the trailer. */
  async finish(): Promise<ZFileSummary> {
    return this.#step(async () => {
      if (this.#filled > 0) await this.#pack();
      while (this.#pending.length > 0) await this.#drainOne();
      const indexOffset = this.#storedSize;
      let indexCrc = 0;
      let blocks = 0;
      for (const piece of this.#lengths) {
        indexCrc = crc32c(piece, indexCrc);
        blocks += piece.byteLength / 4;
        await this.#emit(piece);
      }
      const numbers = { indexOffset, blocks, plainSize: this.#plainSize, indexCrc };
      await this.#emit(this.#end(TRAILER_FLAGS, numbers));
      this.#state = 'finished';
      return {
        storedSize: this.#storedSize,
        plainSize: this.#plainSize,
        blocks,
        finalHeader: this.#end(FINAL_HEADER_FLAGS, numbers),
      };
    });
  }

  async #step<T>(work: () => Promise<T>): Promise<T> {
    if (this.#state === 'finished' || this.#state === 'failed')
      throw new TypeError(`ZFile writer is used after it has ${this.#state}`);
    try {
      if (this.#state === 'new') {
        this.#state = 'open';
        await this.#emit(
          this.#end(INITIAL_HEADER_FLAGS, { indexOffset: 0, blocks: 0, plainSize: 0, indexCrc: 0 }),
        );
      }
      return await work();
    } catch (error) {
      this.#state = 'failed';
      await Promise.allSettled(this.#pending.map((batch) => batch.packed));
      throw error;
    }
  }

  async #pack(): Promise<void> {
    if (this.#pending.length === IN_FLIGHT) await this.#drainOne();
    const packed = packBlocks(this.#codec, this.#blockSize, this.#batch.subarray(0, this.#filled));
    packed.catch(() => undefined); // Reported by #drainOne, which awaits it later.
    this.#pending.push({ packed });
    this.#batch = Buffer.allocUnsafeSlow(BATCH_BYTES);
    this.#filled = 0;
  }

  async #drainOne(): Promise<void> {
    const batch = this.#pending.shift();
    if (batch === undefined) return;
    const { stored, lengths } = await batch.packed;
    this.#lengths.push(lengths);
    await this.#emit(stored);
  }

  async #emit(bytes: Uint8Array): Promise<void> {
    await this.#sink.write(bytes);
    this.#storedSize += bytes.byteLength;
  }

  #end(
    flags: number,
    numbers: Pick<ZFileEnd, 'indexOffset' | 'blocks' | 'plainSize' | 'indexCrc'>,
  ): Uint8Array {
    return encodeZFileEnd({
      flags,
      ...numbers,
      blockSize: this.#blockSize,
      codec: this.#codec,
      dictionarySize: 0,
      verify: true,
    });
  }
}

/** Bytes of a ZFile beside its blocks: header, jump table and trailer. */
export function zfileOverhead(blocks: number): number {
  return 2 * ZFILE_END_SIZE + 4 * blocks;
}
