/**
 * A gzip file seen as its plain bytes, at any offset. What lies between two restart points (a span, about 1 MiB) is
 * unpacked whole, once for all who ask at the same time, and kept in memory for a while: a reader who comes back to it, or
 * goes on in it, copies. Decoders that stand at a later span are used again, so that readers who go forward start none; a few
 * are kept, least recently used first out. Of a span that is too large to be kept only what is asked for is unpacked.
 */
import { LRUCache } from 'lru-cache';
import { checkRange, FormatError, type ReadableBlob, type ReadOptions } from '../blob/index.js';
import { Inflater, type InflateStep } from '../native/index.js';
import { GzipIndex } from './gzip-index.js';

/** Gzip bytes fetched at a time: half a restart span of well compressed data. */
const INPUT_BYTES = 128 * 1024;
/** Plain bytes thrown away at a time. */
const DISCARD_BYTES = 128 * 1024;
/** Idle decoders kept per file, about 172 KiB each: a guest's read-ahead rarely follows more streams. */
const IDLE_DECODERS = 4;

/** Largest span that is unpacked whole: four times what overlaybd's indexes have. */
const MAX_SPAN = 4 << 20;
/**
 * Spans of all files of the process: 64 MiB. Behind a cache on disk it serves neighbouring units, which share spans; without
 * one it is all there is.
 */
const spans = new LRUCache<string, Uint8Array>({
  max: 4096,
  maxSize: 64 << 20,
  sizeCalculation: (bytes) => Math.max(1, bytes.byteLength),
});
let lastId = 0;

/** A span that is being unpacked. */
interface Decoding {
  readonly bytes: Promise<Uint8Array>;
  readonly signal: AbortSignal | undefined;
}

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
  /** Of this file's spans among all. */
  readonly #prefix = `${++lastId}/`;
  /** By number of the restart point. */
  readonly #decoding = new Map<number, Decoding>();
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
      for (let done = 0; done < into.byteLength;) {
        const number = this.#index.find(offset + done);
        const [start, end] = this.#index.span(number);
        const skip = offset + done - start;
        const part = into.subarray(done, Math.min(into.byteLength, done + end - start - skip));
        if (end - start > MAX_SPAN) await this.#readThere(offset + done, part, options);
        else {
          const span = await this.#span(number, options);
          if (span !== undefined) part.set(span.subarray(skip, skip + part.byteLength));
          else await this.#readThere(offset + done, part, options);
        }
        done += part.byteLength;
      }
    } finally {
      if (--this.#inFlight === 0) this.#whenIdle?.();
    }
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
      this.#idle.length = 0;
      for (const key of spans.keys()) if (key.startsWith(this.#prefix)) spans.delete(key);
      await Promise.all([this.#gzip.close(), this.#index.close()]);
    })();
    return this.#closed;
  }

  /** All of a span; belongs to the cache. Undefined if part of it is damaged: another part may be good. */
  async #span(number: number, options?: ReadOptions): Promise<Uint8Array | undefined> {
    const key = `${this.#prefix}${number}`;
    for (;;) {
      const kept = spans.get(key);
      if (kept !== undefined) return kept;
      const other = this.#decoding.get(number);
      if (other === undefined) break;
      try {
        return await other.bytes;
      } catch (error) {
        if (error instanceof FormatError) return undefined;
        // Given up by who began it: that is no failure of ours.
        if (other.signal?.aborted !== true) throw error;
        options?.signal?.throwIfAborted();
      }
    }
    const bytes = (async () => {
      const [start, end] = this.#index.span(number);
      const plain = new Uint8Array(end - start);
      await this.#readThere(start, plain, options);
      spans.set(key, plain);
      return plain;
    })().finally(() => this.#decoding.delete(number));
    this.#decoding.set(number, { bytes, signal: options?.signal });
    try {
      return await bytes;
    } catch (error) {
      if (error instanceof FormatError) return undefined;
      throw error;
    }
  }

  /** Fills `into`, by a decoder. */
  async #readThere(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    const decoder = this.#takeIdle(offset) ?? (await this.#start(offset));
    if (decoder.plainOffset < offset) {
      const scratch = Buffer.allocUnsafe(Math.min(DISCARD_BYTES, offset - decoder.plainOffset));
      while (decoder.plainOffset < offset)
        await this.#decode(decoder, scratch.subarray(0, offset - decoder.plainOffset), options);
    }
    await this.#decode(decoder, into, options);
    this.#keep(decoder);
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
