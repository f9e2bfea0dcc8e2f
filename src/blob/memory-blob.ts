import { checkRange, type ReadableBlob } from './readable-blob.js';
import type { WritableBlob } from './writable-blob.js';

/** Bytes in memory, for tests, benchmarks and small documents. */
export class MemoryBlob implements ReadableBlob {
  readonly name: string;
  readonly size: number;
  protected readonly bytes: Uint8Array;

  /** @param bytes kept, not copied. */
  constructor(bytes: Uint8Array, name = 'memory') {
    this.bytes = bytes;
    this.size = bytes.byteLength;
    this.name = name;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    checkRange(this, offset, into.byteLength);
    into.set(this.bytes.subarray(offset, offset + into.byteLength));
  }

  async close(): Promise<void> {
    // Nothing to release.
  }
}

/** Writable bytes in memory. Durable as long as the process. */
export class WritableMemoryBlob extends MemoryBlob implements WritableBlob {
  async write(offset: number, from: Uint8Array): Promise<void> {
    checkRange(this, offset, from.byteLength);
    this.bytes.set(from, offset);
  }

  async discard(offset: number, length: number): Promise<void> {
    checkRange(this, offset, length);
    this.bytes.fill(0, offset, offset + length);
  }

  async flush(): Promise<void> {
    // Nothing to make durable.
  }
}
