/**
 * A ZFile written into a file by native threads ({@link ZFileStream}): same bytes as {@link ZFileWriter} with its final
 * header in place, several times as fast, because blocks never come back to JavaScript.
 */
import { ioError, type ByteSink } from '../blob/index.js';
import { Codec, ZFileStream } from '../native/index.js';
import {
  checkBlockSize,
  encodeZFileEnd,
  FINAL_HEADER_FLAGS,
  INITIAL_HEADER_FLAGS,
  LEAST_BLOCK_SIZE,
  TRAILER_FLAGS,
  ZFILE_END_SIZE,
} from './format.js';
import type { ZFileWriterOptions } from './zfile-writer.js';

/** Where a {@link ZFileFile} goes. */
export interface ZFileTarget {
  /** Used in errors. */
  readonly path: string;
  /** Descriptor, open for writing until {@link ZFileFile.close}; owned by the caller. */
  readonly fd: number;
  /** Writes all of `bytes` at an offset. */
  writeAt(offset: number, bytes: Uint8Array): Promise<void>;
}

/** Options of a {@link ZFileFile}. */
export interface ZFileFileOptions extends ZFileWriterOptions {
  /** Leave the header as it is while blocks are still coming: only the trailer counts. Default false. */
  readonly initialHeader?: boolean;
}

/** One ZFile being written; close it in any case. One call at a time. */
export class ZFileFile implements ByteSink {
  /** What takes the plain bytes; an ext4 image may have it for a while. */
  readonly stream: ZFileStream;
  readonly #target: ZFileTarget;
  readonly #offset: number;
  readonly #codec: Codec;
  readonly #blockSize: number;
  readonly #initialHeader: boolean;

  /**
   * @param offset where the header goes.
   * @throws RangeError if the block size is not allowed.
   */
  constructor(target: ZFileTarget, offset: number, options: ZFileFileOptions = {}) {
    this.#target = target;
    this.#offset = offset;
    this.#codec = options.codec ?? Codec.LZ4;
    this.#blockSize = options.blockSize ?? LEAST_BLOCK_SIZE;
    this.#initialHeader = options.initialHeader === true;
    checkBlockSize(this.#blockSize);
    this.stream = new ZFileStream(target.fd, offset + ZFILE_END_SIZE, this.#codec, this.#blockSize);
  }

  /** Appends plain bytes. @throws IoError */
  write(plain: Uint8Array): Promise<void> {
    return this.#io(() => this.stream.append(plain));
  }

  /** Writes what is left, the table, the trailer and the header. Gives the bytes that the ZFile takes. @throws IoError */
  async finish(): Promise<number> {
    const totals = await this.#io(() => this.stream.finish());
    const indexOffset = ZFILE_END_SIZE + totals.blocksSize;
    const end = {
      blockSize: this.#blockSize,
      codec: this.#codec,
      dictionarySize: 0,
      verify: true,
    };
    const numbers = {
      indexOffset,
      blocks: totals.blocks,
      plainSize: totals.plainSize,
      indexCrc: totals.tableCrc,
    };
    const trailerAt = indexOffset + 4 * totals.blocks;
    await this.#target.writeAt(
      this.#offset + trailerAt,
      encodeZFileEnd({ ...end, ...numbers, flags: TRAILER_FLAGS }),
    );
    const header = this.#initialHeader
      ? { flags: INITIAL_HEADER_FLAGS, indexOffset: 0, blocks: 0, plainSize: 0, indexCrc: 0 }
      : { ...numbers, flags: FINAL_HEADER_FLAGS };
    await this.#target.writeAt(this.#offset, encodeZFileEnd({ ...end, ...header }));
    return trailerAt + ZFILE_END_SIZE;
  }

  /** Ends the threads; without {@link finish} before, the file is not to be used. */
  close(): void {
    this.stream.close();
  }

  async #io<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw ioError(error, `write "${this.#target.path}"`, this.#target.path);
    }
  }
}
