import type { ReadableBlob } from './readable-blob.js';

/** A blob that can be changed, sector by sector. */
export interface WritableBlob extends ReadableBlob {
  /** Stores all of `from` at `offset`; whole sectors only. `from` is not retained after the promise settles. */
  write(offset: number, from: Uint8Array): Promise<void>;
  /** Whole sectors only; the range reads back as zeroes. */
  discard(offset: number, length: number): Promise<void>;
  /** Settles once every write and discard that settled before the call is durable. */
  flush(): Promise<void>;
}

/** True if the blob takes writes. */
export function isWritable(blob: ReadableBlob): blob is WritableBlob {
  return 'write' in blob && 'discard' in blob && 'flush' in blob;
}
