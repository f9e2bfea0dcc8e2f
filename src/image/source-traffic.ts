import type { ReadableBlob, ReadOptions } from '../blob/index.js';
import type { AuditLog } from '../log/index.js';

/** What a process read from registries, all images together: the reads that caches and downloads made of their sources. */
export class SourceTraffic {
  /** Reads that ended well. */
  reads = 0;
  errors = 0;
  bytes = 0;
  inFlight = 0;
  /** Milliseconds of all that ended. */
  milliseconds = 0;
  #longest = 0;
  readonly #audit: AuditLog | undefined;

  /** @param audit told of each read that ended well; stays its owner's. */
  constructor(audit?: AuditLog) {
    this.#audit = audit;
  }

  /** Milliseconds of the longest read since the last call. One reader. */
  takeLongest(): number {
    const longest = this.#longest;
    this.#longest = 0;
    return longest;
  }

  /** The same blob, counted; owns it. */
  watch(blob: ReadableBlob): ReadableBlob {
    return {
      name: blob.name,
      size: blob.size,
      read: (offset, into, options) => this.#read(blob, offset, into, options),
      close: () => blob.close(),
    };
  }

  async #read(blob: ReadableBlob, offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    const began = performance.now();
    this.inFlight++;
    try {
      await blob.read(offset, into, options);
      this.reads++;
      this.bytes += into.byteLength;
      const operation = options?.cause === 'download' ? 'bk_download' : 'download';
      this.#audit?.record(operation, blob.name, offset, into.byteLength, performance.now() - began);
    } catch (error) {
      this.errors++;
      throw error;
    } finally {
      const took = performance.now() - began;
      this.inFlight--;
      this.milliseconds += took;
      this.#longest = Math.max(this.#longest, took);
    }
  }
}
