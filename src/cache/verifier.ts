import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Logger } from '../log/index.js';
import type { SharedBlob } from './shared-blob.js';

/** Hashed in one go: under a millisecond, so that misses do not wait for it. */
const SLICE = 256 * 1024;

/**
 * Checks complete blobs against their digests in the background, one at a time. A blob that loses a unit meanwhile is
 * left alone until it is complete again.
 */
export class Verifier {
  readonly #log: Logger;
  /** At most one entry per open blob. */
  readonly #queue = new Set<SharedBlob>();
  #current: { readonly blob: SharedBlob; stop: boolean; readonly done: Promise<void> } | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Puts a complete blob in the queue. */
  enqueue(blob: SharedBlob): void {
    this.#queue.add(blob);
    if (!this.#current) this.#next();
  }

  /** Takes a blob out; settles once it is not being read. */
  async remove(blob: SharedBlob): Promise<void> {
    this.#queue.delete(blob);
    if (this.#current?.blob !== blob) return;
    this.#current.stop = true;
    await this.#current.done;
  }

  /** Settles once the queue is empty. */
  async idle(): Promise<void> {
    while (this.#current) await this.#current.done;
  }

  #next(): void {
    const [blob] = this.#queue;
    if (!blob) return;
    this.#queue.delete(blob);
    let ended = (): void => undefined;
    const current = { blob, stop: false, done: new Promise<void>((resolve) => (ended = resolve)) };
    this.#current = current;
    void this.#verify(blob, () => current.stop)
      .catch((error: unknown) => {
        this.#log.warn(
          { digest: blob.key, err: error },
          'Cached blob could not be checked against its digest',
        );
      })
      .finally(() => {
        this.#current = undefined;
        this.#next();
        ended();
      });
  }

  async #verify(blob: SharedBlob, stopped: () => boolean): Promise<void> {
    const { file, digest } = blob;
    if (!file || digest === undefined || file.verified) return;
    const { drops } = file;
    const algorithm = digest.slice(0, digest.indexOf(':'));
    const hash = createHash(algorithm);
    const slice = new Uint8Array(SLICE);
    for (let at = 0; at < file.size; at += SLICE) {
      if (stopped() || drops !== file.drops) return;
      const bytes = slice.subarray(0, Math.min(SLICE, file.size - at));
      if (!(await file.read(at, bytes, false))) return;
      hash.update(bytes);
      await nextTurn();
    }
    if (drops !== file.drops) return;
    const actual = `${algorithm}:${hash.digest('hex')}`;
    if (actual !== digest) await blob.digestMismatch(actual);
    else {
      await file.markVerified(drops);
      this.#log.info({ digest, bytes: file.size }, 'Cached blob is complete and has its digest');
    }
  }
}
