import { addon } from './addon.js';

/** The compiled decoder, as bind_unzstd.cc defines it. */
export interface NativeUnzstd {
  run(
    from: Uint8Array,
    into: Uint8Array,
  ): Promise<readonly [ended: number, consumed: number, produced: number]>;
}

/** What one step of a decoder did. */
export interface UnzstdStep {
  readonly consumed: number;
  readonly produced: number;
  /** True if a frame has just ended; another may follow. */
  readonly ended: boolean;
}

/** A decoder of zstd frames, one after the other. Calls must not overlap. Wraps obd_unzstd. */
export class Unzstd {
  readonly #native: NativeUnzstd = new addon.Unzstd();

  /**
   * Decodes until `from` is used up, `into` is full or a frame ends. Runs on a libuv thread; neither buffer may change
   * until the promise settles.
   * @throws Error with what zstd says is wrong with the bytes, a window of more than 128 MiB included.
   */
  async run(from: Uint8Array, into: Uint8Array): Promise<UnzstdStep> {
    const [ended, consumed, produced] = await this.#native.run(from, into);
    return { consumed, produced, ended: ended === 1 };
  }
}
