import type { Logger } from '../log/index.js';

/** How long a disk that failed is left alone. */
const REST_MS = 30_000;
/** At most one warning in this time: a full disk fails every write. */
const WARN_INTERVAL_MS = 60_000;

/**
 * Whether the cache's disk takes writes. After a failure it is left alone for a while: reads go on from the source.
 */
export class DiskHealth {
  readonly #log: Logger;
  readonly #clock: () => number;
  #restsUntil = -Infinity;
  #warnedAt = -Infinity;
  #silenced = 0;
  #failures = 0;

  /** @param clock monotonic milliseconds. */
  constructor(log: Logger, clock: () => number = () => performance.now()) {
    this.#log = log;
    this.#clock = clock;
  }

  /** False while the disk rests after a failure. */
  get usable(): boolean {
    return this.#clock() >= this.#restsUntil;
  }

  /** Failures since the start. */
  get failures(): number {
    return this.#failures;
  }

  /** Takes note of a failed write, sync or open; the disk rests from now on. */
  failed(action: string, path: string, error: unknown): void {
    this.#failures++;
    this.#restsUntil = this.#clock() + REST_MS;
    this.warn('Cache disk failed; reading from the source', { action, path, err: error, restMs: REST_MS });
  }

  /** Logs, but not more often than once a minute; what was left out is counted. */
  warn(message: string, fields: Record<string, unknown>): void {
    const now = this.#clock();
    if (now - this.#warnedAt < WARN_INTERVAL_MS) {
      this.#silenced++;
      return;
    }
    this.#log.warn({ ...fields, silenced: this.#silenced }, message);
    this.#warnedAt = now;
    this.#silenced = 0;
  }
}
