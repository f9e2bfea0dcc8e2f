import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { abortedError, checkRange, MemoryBlob, type ReadOptions } from '../../src/blob/index.js';

/** Bytes that differ from place to place and are the same for the same seed, without a period near any block size. */
export function testBytes(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    bytes[i] = state;
  }
  return bytes;
}

/** `sha256:<hex>` of some bytes. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** A source that counts what is asked of it, and is slow or fails when told to. */
export class SourceBlob extends MemoryBlob {
  /** [offset, length] of each read, in order. */
  readonly requests: (readonly [offset: number, length: number])[] = [];
  aborted = 0;
  closed = 0;
  delayMs = 0;
  /** Reads that have begun wait for this as well. */
  hold: Promise<void> | undefined;
  /** Called before each read; throws to fail it. May change `into` afterwards through the returned function. */
  onRead: (offset: number, into: Uint8Array) => (() => void) | undefined = () => undefined;

  /** Sum of what was asked. */
  get bytesRead(): number {
    return this.requests.reduce((sum, [, length]) => sum + length, 0);
  }

  /** The bytes themselves, to compare with. */
  get plain(): Uint8Array {
    return this.bytes;
  }

  override async read(offset: number, into: Uint8Array, options: ReadOptions = {}): Promise<void> {
    checkRange(this, offset, into.byteLength);
    this.requests.push([offset, into.byteLength]);
    const after = this.onRead(offset, into);
    if (this.delayMs > 0)
      await sleep(this.delayMs, undefined, options.signal ? { signal: options.signal } : {}).catch(
        () => undefined,
      );
    await this.hold;
    if (options.signal?.aborted === true) {
      this.aborted++;
      throw abortedError('read of the source', options.signal);
    }
    await super.read(offset, into);
    after?.();
  }

  override async close(): Promise<void> {
    this.closed++;
  }
}
