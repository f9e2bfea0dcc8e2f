/**
 * A gzip file seen as its plain bytes, at any offset. A read starts a decoder at the nearest restart point before it
 * and throws away what lies between. Decoders that stand at or before a later read are used again, so that readers who
 * go forward inflate each byte once; a few are kept, least recently used first out.
 */
import { checkRange, FormatError, type ReadableBlob, type ReadOptions } from '../blob/index.js';
import { Inflater, type InflateStep } from '../native/index.js';
import { GzipIndex } from './gzip-index.js';

/** Gzip bytes fetched at a time: half a restart span of well compressed data. */
const INPUT_BYTES = 128 * 1024;
/** Plain bytes thrown away at a time. */
const DISCARD_BYTES = 128 * 1024;
/** Idle decoders kept per file, about 172 KiB each: a guest's read-ahead rarely follows more streams. */
const IDLE_DECODERS = 4;

/** A decoder somewhere in the file. */
interface Decoder {
  readonly inflater: Inflater;
  /** Offset of the next plain byte. */
  plainOffset: number;
  /** Offset in the gzip file behind `input`. */
  gzipOffset: number;
  /** Fetched, not yet decoded. */
  input: Uint8Array;
  ended: boolean;
}

/** Plain view of a gzip file with an index. */
export class GzipBlob implements ReadableBlob {
  readonly name: string;
  readonly size: number;
  readonly #gzip: ReadableBlob;
  readonly #index: GzipIndex;
  /** Most recently used last. */
  readonly #idle: Decoder[] = [];
  #inFlight = 0;
  #whenIdle: (() => void) | undefined;
  #closed: Promise<void> | undefined;

  private constructor(gzip: ReadableBlob, index: GzipIndex) {
    this.#gzip = gzip;
    this.#index = index;
    this.name = gzip.name;
    this.size = index.plainSize;
  }

  /**
   * Opens `gzip` through the index in `index`. The result owns both; on failure the caller does.
   * @throws FormatError see {@link GzipIndex.open}; a gzip file of another size is OBD_FORMAT_BAD_HEADER.
   */
  static async open(gzip: ReadableBlob, index: ReadableBlob): Promise<GzipBlob> {
    return new GzipBlob(gzip, await GzipIndex.open(index, gzip.size));
  }

  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    checkRange(this, offset, into.byteLength);
    if (this.#closed) throw new TypeError(`Read of "${this.name}" after close`);
    if (into.byteLength === 0) return;
    this.#inFlight++;
    try {
      const decoder = this.#takeIdle(offset) ?? (await this.#start(offset));
      if (decoder.plainOffset < offset) {
        const scratch = Buffer.allocUnsafe(Math.min(DISCARD_BYTES, offset - decoder.plainOffset));
        while (decoder.plainOffset < offset)
          await this.#decode(decoder, scratch.subarray(0, offset - decoder.plainOffset), options);
      }
      await this.#decode(decoder, into, options);
      this.#keep(decoder);
    } finally {
      if (--this.#inFlight === 0) this.#whenIdle?.();
    }
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
      this.#idle.length = 0;
      await Promise.all([this.#gzip.close(), this.#index.close()]);
    })();
    return this.#closed;
  }

  /** The idle decoder that is nearest before `offset`, if no restart point is nearer. */
  #takeIdle(offset: number): Decoder | undefined {
    const least = this.#index.point(this.#index.find(offset)).plainOffset;
    let best = -1;
    for (const [i, decoder] of this.#idle.entries())
      if (
        decoder.plainOffset <= offset &&
        decoder.plainOffset >= Math.max(least, this.#idle[best]?.plainOffset ?? 0)
      )
        best = i;
    return best < 0 ? undefined : this.#idle.splice(best, 1)[0];
  }

  #keep(decoder: Decoder): void {
    this.#idle.push(decoder);
    if (this.#idle.length > IDLE_DECODERS) this.#idle.shift();
  }

  async #start(offset: number): Promise<Decoder> {
    const number = this.#index.find(offset);
    const { plainOffset, gzipOffset, bits } = this.#index.point(number);
    const dictionary = await this.#index.dictionary(number);
    const before = new Uint8Array(1);
    if (bits > 0) await this.#gzip.read(gzipOffset - 1, before);
    const inflater = new Inflater();
    inflater.start(bits, before[0] ?? 0, dictionary);
    return { inflater, plainOffset, gzipOffset, input: new Uint8Array(0), ended: false };
  }

  /** Fills all of `into` with the next plain bytes. */
  async #decode(decoder: Decoder, into: Uint8Array, options?: ReadOptions): Promise<void> {
    for (let done = 0; done < into.byteLength;) {
      if (decoder.ended) throw this.#short(decoder, 'the deflate stream ends');
      const left = this.#gzip.size - decoder.gzipOffset;
      if (decoder.input.byteLength === 0 && left > 0) {
        const input = new Uint8Array(Math.min(INPUT_BYTES, left));
        await this.#gzip.read(decoder.gzipOffset, input, options);
        decoder.input = input;
        decoder.gzipOffset += input.byteLength;
      }
      // Without input it may still have plain bytes to give.
      const step = await this.#step(decoder, into.subarray(done));
      if (step.consumed === 0 && step.produced === 0 && !step.ended)
        throw this.#short(decoder, 'the gzip file ends');
      decoder.input = decoder.input.subarray(step.consumed);
      decoder.plainOffset += step.produced;
      decoder.ended = step.ended;
      done += step.produced;
    }
  }

  async #step(decoder: Decoder, into: Uint8Array): Promise<InflateStep> {
    try {
      return await decoder.inflater.run(decoder.input, into);
    } catch (cause) {
      const start = decoder.gzipOffset - decoder.input.byteLength;
      throw new FormatError(
        'OBD_FORMAT_CORRUPT_BLOCK',
        `Cannot read gzip "${this.name}": broken deflate data between bytes ${start} and ${decoder.gzipOffset}, or an index that does not belong to it`,
        { source: this.name, offset: start, cause },
      );
    }
  }

  #short(decoder: Decoder, what: string): FormatError {
    return new FormatError(
      'OBD_FORMAT_TRUNCATED',
      `Cannot read gzip "${this.name}": ${what} after ${decoder.plainOffset} plain bytes, its index says ${this.size}`,
      { source: this.name, offset: decoder.gzipOffset, expected: this.size, actual: decoder.plainOffset },
    );
  }
}
