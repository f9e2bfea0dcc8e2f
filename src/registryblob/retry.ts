/** Trying again, with bounds on everything: how often, how long between, and how long a server may tell us to wait. */
import { setTimeout as sleep } from 'node:timers/promises';
import { abortedError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { HttpStatusError, isRetryable } from './failures.js';

/** Bounds of a retry loop. */
export interface RetryPolicy {
  /** Tries in all, at least 1. */
  readonly attempts: number;
  /** Pause before the second try; doubled each time, with full jitter. */
  readonly baseMs: number;
  /** Longest pause of our own choosing. */
  readonly maxPauseMs: number;
  /** Longest Retry-After that is waited for; a longer one is an error at once, because whoever reads would hang. */
  readonly maxRetryAfterMs: number;
}

/** Four tries within about 3 s where the server answers; a restart of a registry behind a balancer takes no longer. */
export const DEFAULT_RETRY: RetryPolicy = {
  attempts: 4,
  baseMs: 200,
  maxPauseMs: 3000,
  maxRetryAfterMs: 20_000,
};

/** Pause before try number `attempt` (2, 3, ..), or undefined if there should be none. */
export function pauseBefore(attempt: number, error: unknown, policy: RetryPolicy): number | undefined {
  if (attempt > policy.attempts || !isRetryable(error)) return undefined;
  const asked = error instanceof HttpStatusError ? error.retryAfterMs : undefined;
  if (asked !== undefined && asked > policy.maxRetryAfterMs) return undefined;
  const own = Math.random() * Math.min(policy.maxPauseMs, policy.baseMs * 2 ** (attempt - 2));
  return asked === undefined ? own : asked + own;
}

/** Waits, or rejects with OBD_ABORTED as soon as the signal fires. */
export async function pause(ms: number, action: string, signal?: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, signal === undefined ? {} : { signal });
  } catch {
    throw abortedError(action, signal);
  }
}

/** Runs `attempt` until it succeeds or the policy says enough; rejects with the last error. */
export async function withRetries<T>(
  attempt: () => Promise<T>,
  options: {
    readonly policy: RetryPolicy;
    readonly action: string;
    readonly log: Logger;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<T> {
  for (let n = 2; ; n++) {
    try {
      return await attempt();
    } catch (error) {
      const pauseMs = pauseBefore(n, error, options.policy);
      if (pauseMs === undefined || options.signal?.aborted === true) throw error;
      options.log.debug(
        { action: options.action, attempt: n, pauseMs, err: error },
        'registry request is tried again',
      );
      await pause(pauseMs, options.action, options.signal);
    }
  }
}
