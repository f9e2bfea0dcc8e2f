/**
 * Source layers in the order in which they are applied, the next ones fetched ahead: while one layer is applied, the two
 * after it flow from the registry into files without names. What is read ahead is bounded on disk ({@link MAX_AHEAD}, and
 * a quarter of what is free); a layer beyond that, and every layer of a source that lies in files, is read from where
 * it is.
 */
import { statfs, type FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { ChunkRing, ioError } from '../blob/index.js';
import { PLAIN_KEPT } from '../ocilayer/index.js';
import type { Descriptor, ImageSource } from '../oci/index.js';
import { namelessFile } from './write-layer.js';

/** Layers fetched beside the one in use: more would only share the line. */
const LAYERS_AHEAD = 2;
/** Bytes of layers fetched ahead that are on disk at the same time. */
const MAX_AHEAD = 2 * 2 ** 30;
/** The new layers need the rest. */
const SHARE_OF_FREE = 0.25;
const STEP = 512 * 1024;

async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize;
}

/** A stream on its way into a file, readable from its beginning while it grows. */
class Spool {
  readonly size: number;
  readonly #handle: FileHandle;
  readonly #stream: Readable;
  readonly #done: Promise<void>;
  #written = 0;
  #ended = false;
  #failure: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;

  constructor(handle: FileHandle, stream: Readable, size: number) {
    this.#handle = handle;
    this.#stream = stream;
    this.size = size;
    this.#done = this.#fill();
  }

  async #fill(): Promise<void> {
    try {
      for await (const chunk of this.#stream) {
        const bytes = chunk as Uint8Array;
        for (let done = 0; done < bytes.byteLength;) {
          const { bytesWritten } = await this.#handle
            .write(bytes, done, bytes.byteLength - done, this.#written)
            .catch((error: unknown) => {
              throw ioError(error, 'keep a layer that is fetched ahead', 'work file');
            });
          done += bytesWritten;
          this.#written += bytesWritten;
        }
        this.#wake?.();
      }
      this.#ended = true;
    } catch (error) {
      this.#failure = { error };
    }
    this.#wake?.();
  }

  /** All bytes; ends, or fails, as the stream did. A chunk stays as it is until {@link PLAIN_KEPT} more were asked for. */
  async *read(): AsyncGenerator<Uint8Array, void, undefined> {
    const ring = new ChunkRing(STEP, PLAIN_KEPT);
    for (let at = 0; ;) {
      if (at < this.#written) {
        const length = Math.min(STEP, this.#written - at);
        const { bytesRead } = await this.#handle.read(ring.room(), 0, length, at);
        at += bytesRead;
        yield ring.take(bytesRead);
      } else if (this.#failure !== undefined) throw this.#failure.error;
      else if (this.#ended) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** Ends the stream and gives the file back. */
  async close(): Promise<void> {
    this.#stream.destroy();
    await this.#done;
    await this.#handle.close();
  }
}

/** See the head of this file. */
export class LayerFetcher {
  readonly #source: ImageSource;
  readonly #layers: readonly Descriptor[];
  readonly #workDir: string;
  readonly #signal: AbortSignal;
  readonly #free: (directory: string) => Promise<number>;
  readonly #spools = new Map<number, Promise<Spool | undefined>>();
  #ahead = 0;

  /**
   * @param layers all that will be asked for, in this order.
   * @param free bytes that a directory has room for.
   */
  constructor(
    source: ImageSource,
    layers: readonly Descriptor[],
    workDir: string,
    signal: AbortSignal,
    free: (directory: string) => Promise<number> = freeBytes,
  ) {
    this.#free = free;
    this.#source = source;
    this.#layers = layers;
    this.#workDir = workDir;
    this.#signal = signal;
  }

  /** The blob of a layer. Its digest is checked at its end. What is left of it is given back in any case. */
  async *open(index: number): AsyncGenerator<Uint8Array, void, undefined> {
    const layer = this.#layers[index];
    if (layer === undefined) throw new RangeError(`There is no layer ${index}`);
    const started = this.#spools.get(index);
    this.#spools.delete(index);
    try {
      const spool = await started;
      if (spool === undefined) yield* this.#direct(layer, index);
      else {
        this.#startAhead(index);
        yield* spool.read();
      }
    } finally {
      await this.#release(started);
    }
  }

  async *#direct(layer: Descriptor, index: number): AsyncGenerator<Uint8Array, void, undefined> {
    const stream = await this.#source.streamBlob(layer, { signal: this.#signal });
    this.#startAhead(index);
    try {
      for await (const chunk of stream) yield chunk as Uint8Array;
    } finally {
      stream.destroy();
    }
  }

  async #release(started: Promise<Spool | undefined> | undefined): Promise<void> {
    const spool = await started?.catch(() => undefined);
    if (spool === undefined) return;
    await spool.close();
    this.#ahead -= spool.size;
  }

  #startAhead(current: number): void {
    // A file is as near as a copy of it.
    if (this.#source.place === undefined) return;
    for (let index = current + 1; index <= current + LAYERS_AHEAD; index++) {
      const layer = this.#layers[index];
      if (layer === undefined || this.#spools.has(index)) continue;
      if (this.#ahead + layer.size > MAX_AHEAD) return;
      const spool = this.#start(layer);
      spool.catch(() => undefined); // Reported when it is opened, if it is.
      this.#spools.set(index, spool);
    }
  }

  /** Undefined if there is no room for it. */
  async #start(layer: Descriptor): Promise<Spool | undefined> {
    this.#ahead += layer.size;
    let handle: FileHandle | undefined;
    try {
      if (this.#ahead > SHARE_OF_FREE * (await this.#free(this.#workDir))) {
        this.#ahead -= layer.size;
        return undefined;
      }
      handle = await namelessFile(this.#workDir);
      const stream = await this.#source.streamBlob(layer, { signal: this.#signal });
      return new Spool(handle, stream, layer.size);
    } catch (error) {
      this.#ahead -= layer.size;
      await handle?.close();
      throw error;
    }
  }

  /** Gives back what nobody opened. */
  async close(): Promise<void> {
    const left = [...this.#spools.values()];
    this.#spools.clear();
    await Promise.all(left.map((spool) => this.#release(spool)));
  }
}
