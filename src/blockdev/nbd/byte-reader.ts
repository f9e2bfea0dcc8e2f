import type { Readable } from 'node:stream';

/** Takes exact numbers of bytes from a stream that delivers any. One reader per stream; calls do not overlap. */
export class ByteReader {
  readonly #stream: Readable;
  #ended = false;
  #error: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: Readable) {
    this.#stream = stream;
    const wake = (): void => this.#wake?.();
    stream.on('readable', wake);
    stream.on('end', () => {
      this.#ended = true;
      wake();
    });
    stream.on('close', () => {
      this.#ended = true;
      wake();
    });
    stream.on('error', (error) => {
      this.#error = error;
      wake();
    });
  }

  /** Exactly `length` bytes, or undefined if the stream ends before the first. @throws Error if it ends after it. */
  async take(length: number): Promise<Buffer | undefined> {
    if (length === 0) return Buffer.alloc(0);
    const parts: Buffer[] = [];
    let have = 0;
    for (;;) {
      const want = Math.min(length - have, Math.max(1, this.#stream.readableLength));
      const part = this.#stream.read(want) as Buffer | null;
      if (part !== null) {
        parts.push(part);
        have += part.byteLength;
        if (have === length) return parts.length === 1 ? part : Buffer.concat(parts, length);
        continue;
      }
      if (this.#error !== undefined) throw this.#error;
      if (this.#ended) {
        if (have === 0) return undefined;
        throw new Error(`Connection ended after ${have} of ${length} bytes`);
      }
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = undefined;
    }
  }
}
