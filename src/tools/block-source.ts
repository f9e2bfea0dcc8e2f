/**
 * Answers the questions that an ext4 image asks about the disk below it (native/ext4_source.h). The image's calls block
 * their thread until the answer is there, so image and server live in different threads.
 */
import { Socket } from 'node:net';
import type { ReadableBlob } from '../blob/index.js';

const QUESTION = 16;
/** Above what the image ever asks for at once. */
const MAX_LENGTH = 1 << 20;
const EIO = -5n;

/** Serves one blob on one descriptor, question by question. */
export class BlockSource {
  readonly #blob: ReadableBlob;
  readonly #socket: Socket;
  #asked: Buffer = Buffer.alloc(0);
  #work: Promise<void> = Promise.resolve();
  /** Why the first question that failed did: the image only learns that it did. */
  failure: unknown;

  /** @param fd owned by the source from now on. */
  constructor(fd: number, blob: ReadableBlob) {
    this.#blob = blob;
    this.#socket = new Socket({ fd, readable: true, writable: true });
    this.#socket.on('data', (bytes: Buffer) => {
      this.#take(bytes);
    });
    // The other side ends when its image is closed, or its thread.
    this.#socket.on('error', () => this.#socket.destroy());
  }

  /** Ends service; the image's reads fail from then on. Waits for the answer under way. */
  async close(): Promise<void> {
    this.#socket.destroy();
    await this.#work;
  }

  #take(bytes: Buffer): void {
    this.#asked = this.#asked.byteLength === 0 ? bytes : Buffer.concat([this.#asked, bytes]);
    for (; this.#asked.byteLength >= QUESTION; this.#asked = this.#asked.subarray(QUESTION)) {
      const offset = Number(this.#asked.readBigUInt64LE(0));
      const length = Number(this.#asked.readBigUInt64LE(8));
      this.#work = this.#work.then(() => this.#answer(offset, length));
    }
  }

  async #answer(offset: number, length: number): Promise<void> {
    const head = Buffer.alloc(8);
    const data = Buffer.alloc(Math.min(length, MAX_LENGTH));
    try {
      if (length > MAX_LENGTH) throw new RangeError(`${length} bytes were asked for at once`);
      // The blob's last sectors may be less than a block.
      const present = Math.max(0, Math.min(length, this.#blob.size - offset));
      if (present > 0) await this.#blob.read(offset, data.subarray(0, present));
      head.writeBigInt64LE(BigInt(length));
    } catch (error) {
      this.failure ??= error;
      head.writeBigInt64LE(EIO);
      this.#socket.write(head);
      return;
    }
    this.#socket.write(Buffer.concat([head, data]));
  }
}

/** Where a disk may hold other bytes than zeroes, as `Ext4Image.open` wants it. */
export function dataRuns(extents: Iterable<{ offset: number; length: number; data: boolean }>): Float64Array {
  const runs: number[] = [];
  for (const { offset, length, data } of extents) {
    if (!data) continue;
    const last = runs.length - 2;
    const end = (runs[last] ?? 0) + (runs[last + 1] ?? 0);
    if (last >= 0 && end === offset) runs[last + 1] = (runs[last + 1] ?? 0) + length;
    else runs.push(offset, length);
  }
  return Float64Array.from(runs);
}
