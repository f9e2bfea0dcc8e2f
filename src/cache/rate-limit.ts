import { setTimeout as sleep } from 'node:timers/promises';

/** Spreads bytes over time. Bytes that were not asked for in time are not saved up beyond a tenth of a second. */
export class RateLimit {
  readonly #bytesPerMs: number;
  #paidUntil = -Infinity;

  /** @param bytesPerSecond positive, or Infinity for no limit. */
  constructor(bytesPerSecond: number) {
    this.#bytesPerMs = bytesPerSecond / 1000;
  }

  /** Settles when `bytes` may go. @throws AbortError */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const now = performance.now();
    this.#paidUntil = Math.max(this.#paidUntil, now - 100) + bytes / this.#bytesPerMs;
    if (this.#paidUntil > now) await sleep(this.#paidUntil - now, undefined, { signal });
  }
}
