import { FormatError } from '../blob/index.js';
import { addon } from './addon.js';

/** The compiled decoder, as bind_inflate.cc defines it. */
export interface NativeInflater {
  start(bits: number, byte: number, dictionary: Uint8Array): number;
  run(
    from: Uint8Array,
    into: Uint8Array,
  ): Promise<readonly [status: number, consumed: number, produced: number]>;
}

/** What one step of a decoder did. */
export interface InflateStep {
  readonly consumed: number;
  readonly produced: number;
  /** True once the deflate stream is over. */
  readonly ended: boolean;
}

/**
 * A decoder of raw deflate data that can start inside a stream. Calls must not overlap. Holds about 44 KiB of native
 * memory until it is collected. Wraps obd_inflate.
 */
export class Inflater {
  readonly #native: NativeInflater;

  /** @param fast by the fastest zlib of the process; for streams that are read from their beginning. */
  constructor(fast = false) {
    this.#native = new addon.Inflater(fast);
  }

  /**
   * Begins at a block boundary.
   * @param bits how many top bits of `byte` come before the first input byte, 0 to 7.
   * @param dictionary the plain bytes before the boundary, at most 32768; copied.
   */
  start(bits: number, byte: number, dictionary: Uint8Array): void {
    if (this.#native.start(bits, byte, dictionary) !== 0)
      throw new RangeError(`Cannot start a decoder with ${bits} bits and ${dictionary.byteLength} bytes`);
  }

  /**
   * Decodes until `from` is used up, `into` is full or the stream ends. Runs on a libuv thread; neither buffer may
   * change until the promise settles.
   * @throws FormatError OBD_FORMAT_CORRUPT_BLOCK if the data is not deflate.
   */
  async run(from: Uint8Array, into: Uint8Array): Promise<InflateStep> {
    const [status, consumed, produced] = await this.#native.run(from, into);
    if (status < 0)
      throw new FormatError('OBD_FORMAT_CORRUPT_BLOCK', 'Cannot inflate: the data is not valid deflate');
    return { consumed, produced, ended: status === 1 };
  }
}
