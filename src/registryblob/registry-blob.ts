/**
 * A blob in a registry, read with ranged GETs (blob-source.ts finds who answers them).
 *
 * Bytes are believed only if the answer says they are the right ones: 206 with exactly the range asked for, or 200
 * (a server without ranges) with the blob's whole size. A body that breaks or stalls is taken up where it ended; tries
 * are counted anew once there was progress, so a slow line finishes and a dead one does not take for ever.
 */
import {
  abortedError,
  checkRange,
  RegistryError,
  type ReadableBlob,
  type ReadOptions,
} from '../blob/index.js';
import { ACTION, BlobSource, contentRange, wrongAnswer } from './blob-source.js';
import type { RegistryClient } from './client.js';
import { isRetryable } from './failures.js';
import type { BlobLocation } from './reference.js';
import { pause, pauseBefore } from './retry.js';
import type { HttpResponse } from './transport.js';

/** Most bytes asked for at once: about 2.5 s at 25 Mbit/s, so that the limit of 30 s is generous. */
const MAX_RANGE = 8 * 1024 * 1024;
/** Most bytes read and dropped to reach the offset, from a server that ignores ranges. */
const MAX_SKIP = 32 * 1024 * 1024;
/** A try that delivered this much, or a quarter of what it was to deliver, was progress. */
const PROGRESS = 64 * 1024;

function progressed(gained: number, asked: number): boolean {
  return gained > 0 && gained >= Math.min(PROGRESS, asked / 4);
}

/** Reads may overlap; each is one request (or more, above 8 MiB), and memory is the caller's buffer only. */
export class RegistryBlob implements ReadableBlob {
  readonly name: string;
  readonly size: number;
  readonly location: BlobLocation;
  readonly #client: RegistryClient;
  readonly #source: BlobSource;
  readonly #reads = new Set<Promise<void>>();
  #closed = false;

  private constructor(client: RegistryClient, location: BlobLocation, source: BlobSource, size: number) {
    this.name = location.url;
    this.size = size;
    this.location = location;
    this.#client = client;
    this.#source = source;
  }

  /** Use {@link RegistryClient.openBlob}. */
  static async open(
    client: RegistryClient,
    location: BlobLocation,
    options: { readonly size?: number | undefined; readonly signal?: AbortSignal | undefined },
  ): Promise<RegistryBlob> {
    const { signal } = options;
    const source = new BlobSource(client, location);
    if (options.size !== undefined) return new RegistryBlob(client, location, source, options.size);
    for (let tries = 2; ; tries++) {
      try {
        return new RegistryBlob(client, location, source, await askSize(client, source, signal));
      } catch (error) {
        await again(client, source, location.url, { tries, offset: 0, error, signal });
      }
    }
  }

  async read(offset: number, into: Uint8Array, options: ReadOptions = {}): Promise<void> {
    checkRange(this, offset, into.byteLength);
    if (this.#closed) throw new TypeError(`Read of "${this.name}" after close`);
    const work = (async () => {
      for (let done = 0; done < into.byteLength; done += MAX_RANGE)
        await this.#readRange(offset + done, into.subarray(done, done + MAX_RANGE), options.signal);
    })();
    this.#reads.add(work);
    try {
      await work;
    } finally {
      this.#reads.delete(work);
    }
  }

  /**
   * The bytes from `offset` to the end, in order, over one connection as long as it lasts. Not checked against the
   * digest. Leaving the loop early ends the request.
   */
  async *stream(offset: number, options: ReadOptions = {}): AsyncGenerator<Uint8Array, void, undefined> {
    checkRange(this, offset, 0);
    let at = offset;
    let tries = 1;
    while (at < this.size) {
      const from = at;
      let failure: unknown;
      try {
        for await (const chunk of this.#bytes(at, this.size - at, options.signal, 0)) {
          at += chunk.byteLength;
          yield chunk;
        }
      } catch (error) {
        failure = error;
      }
      if (failure === undefined) continue;
      if (progressed(at - from, this.size - from)) tries = 1;
      await this.#again(++tries, at, failure, options.signal);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled([...this.#reads]);
  }

  /** Reads one range; what arrived before a failure stays, the next try asks for the rest. */
  async #readRange(offset: number, into: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    let done = 0;
    let tries = 1;
    while (done < into.byteLength) {
      const before = done;
      try {
        for await (const chunk of this.#bytes(offset + done, into.byteLength - done, signal, undefined)) {
          into.set(chunk, done);
          done += chunk.byteLength;
        }
      } catch (error) {
        if (progressed(done - before, into.byteLength - before)) tries = 1;
        await this.#again(++tries, offset + done, error, signal);
      }
    }
  }

  #again(tries: number, offset: number, error: unknown, signal: AbortSignal | undefined): Promise<void> {
    return again(this.#client, this.#source, this.name, { tries, offset, error, signal });
  }

  /** One request: exactly `length` bytes from `offset` in pieces, or an error after fewer. */
  async *#bytes(
    offset: number,
    length: number,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    const response = await this.#source.ask({ offset, length, signal, timeoutMs, viaProxy: true });
    if (response.status !== 206 && response.status !== 200)
      throw await this.#client.unexpected(response, ACTION);
    let left = length;
    try {
      let toSkip = this.#check(response, offset, length);
      for await (const chunk of response.body as AsyncIterable<Buffer>) {
        const useful = toSkip === 0 ? chunk : chunk.subarray(toSkip);
        toSkip -= chunk.byteLength - useful.byteLength;
        if (useful.byteLength > left && response.status === 206)
          throw wrongAnswer(response, `the body is longer than the range of ${length} bytes`);
        const piece = useful.byteLength > left ? useful.subarray(0, left) : useful;
        left -= piece.byteLength;
        if (piece.byteLength > 0) yield piece;
        if (left === 0 && response.status === 200) break;
      }
    } catch (error) {
      throw response.failure(error);
    } finally {
      response.body.destroy();
    }
    if (left > 0) {
      const at = offset + length - left;
      throw new RegistryError(
        'OBD_REGISTRY_CONNECTION',
        `Cannot ${ACTION} from "${this.name}": the body ended at byte ${at}, expected ${offset + length}`,
        { source: this.name, offset: at },
      );
    }
  }

  /** Checks that the answer is one to the range. @returns bytes of the body to drop first. */
  #check(response: HttpResponse, offset: number, length: number): number {
    const encoding = response.header('content-encoding') ?? 'identity';
    if (encoding !== 'identity')
      throw wrongAnswer(response, `Content-Encoding is ${encoding}, expected none`);
    if (response.status === 206) {
      const { first, last, total } = contentRange(response);
      const end = offset + length - 1;
      if (first !== offset || last !== end)
        throw wrongAnswer(
          response,
          `Content-Range is "${response.header('content-range') ?? ''}", expected bytes ${offset}-${end}`,
        );
      if (total !== undefined) this.#checkSize(response, total);
      return 0;
    }
    const declared = response.header('content-length');
    if (declared !== undefined) this.#checkSize(response, Number(declared));
    if (offset > MAX_SKIP)
      throw wrongAnswer(
        response,
        `it ignores ranges (status 200), and byte ${offset} is too far from the start to read all before it`,
        'Use a registry or proxy that honours the Range header',
      );
    return offset;
  }

  #checkSize(response: HttpResponse, size: number): void {
    if (size !== this.size)
      throw wrongAnswer(
        response,
        `the blob has ${size} bytes, expected ${this.size}`,
        'Check the size in the image configuration',
      );
  }
}

/** Asks for the first byte: HEAD is no use with URLs signed for GET. */
async function askSize(
  client: RegistryClient,
  source: BlobSource,
  signal: AbortSignal | undefined,
): Promise<number> {
  const response = await source.ask({ offset: 0, length: 1, signal, timeoutMs: undefined, viaProxy: false });
  if (response.status !== 206 && response.status !== 200 && response.status !== 416)
    throw await client.unexpected(response, ACTION);
  response.body.destroy();
  if (response.status === 200) {
    const length = response.header('content-length');
    if (length !== undefined && /^\d{1,15}$/.test(length)) return Number(length);
  } else {
    const { total } = contentRange(response);
    if (total !== undefined && (response.status === 206 || total === 0)) return total;
  }
  throw wrongAnswer(response, `status ${response.status} does not say how long the blob is`);
}

/** Waits before try number `tries`, or throws the error if there should be none. */
async function again(
  client: RegistryClient,
  source: BlobSource,
  name: string,
  failed: {
    readonly tries: number;
    readonly offset: number;
    readonly error: unknown;
    readonly signal: AbortSignal | undefined;
  },
): Promise<void> {
  const { tries, offset, error, signal } = failed;
  const what = `${ACTION} "${name}"`;
  if (signal?.aborted === true) throw abortedError(what, signal);
  if (isRetryable(error)) source.forget();
  const pauseMs = pauseBefore(tries, error, client.retry);
  if (pauseMs === undefined) throw error;
  client.log.debug(
    { url: name, offset, attempt: tries, pauseMs, err: error },
    'registry read is tried again',
  );
  await pause(pauseMs, what, signal);
}
