import { availableParallelism } from 'node:os';
import { addon } from './addon.js';
import type { Codec } from './codec.js';

/** The class of bind_zfile.cc, as it is. */
export interface NativeZFileStream {
  append(plain: Uint8Array): boolean;
  room(): Promise<readonly number[]>;
  finish(): Promise<readonly number[]>;
  position(): number;
  close(): void;
}

/** {@link ZFileStream}'s codec for the plain bytes themselves: no checksums, no table. */
export const UNPACKED = 0;

/** What a {@link ZFileStream} wrote. */
export interface ZFileTotals {
  readonly blocks: number;
  readonly plainSize: number;
  /** Bytes of all stored blocks, without the table behind them. */
  readonly blocksSize: number;
  /** Raw CRC of the table. */
  readonly tableCrc: number;
}

/** More threads than this would wait for the one that writes. */
const MAX_THREADS = 16;
/** Bytes appended in one go; after that there may be no room. */
const STEP = 1024 * 1024;

/**
 * The blocks of a ZFile and the table of their lengths, written into a file by native threads: plain bytes go in,
 * nothing comes back to JavaScript. Wraps zfile_stream.h. All methods throw, or reject with, system errors. One call at
 * a time.
 */
export class ZFileStream {
  readonly #native: NativeZFileStream;

  /**
   * @param fd of a file open for writing; it must stay so until {@link close}.
   * @param offset where the first block goes.
   * @param blockSize a power of two, 512 to 256 KiB.
   */
  constructor(fd: number, offset: number, codec: Codec | typeof UNPACKED, blockSize: number) {
    // Writing alone is one after the other anyway.
    const threads = codec === UNPACKED ? 1 : Math.min(availableParallelism(), MAX_THREADS);
    this.#native = new addon.ZFileStream(fd, offset, codec, blockSize, threads);
  }

  /** For {@link Ext4Image.beginLayer}, in this room. */
  get native(): NativeZFileStream {
    return this.#native;
  }

  /** Plain bytes appended so far. */
  get position(): number {
    return this.#native.position();
  }

  /** Appends a copy of `plain`; settles when there is room for more. */
  async append(plain: Uint8Array): Promise<void> {
    for (let at = 0; at < plain.byteLength; at += STEP)
      if (!this.#native.append(plain.subarray(at, at + STEP))) await this.#native.room();
  }

  /** Waits until all is written, and writes the table. Nothing can be appended afterwards. */
  async finish(): Promise<ZFileTotals> {
    const [blocks = 0, plainSize = 0, blocksSize = 0, tableCrc = 0] = await this.#native.finish();
    return { blocks, plainSize, blocksSize, tableCrc };
  }

  /** Ends the threads. Not while a promise is pending or an image packs a layer into it. */
  close(): void {
    this.#native.close();
  }
}
