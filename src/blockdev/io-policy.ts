/** How long a device repeats what fails, and what it does then. */
export interface IoPolicy {
  /** From the first failure on; 0: nothing is repeated. */
  readonly deadlineMs: number;
  /** `error`: its users get I/O errors. `hold`: they wait until the cause ends, or somebody aborts. */
  readonly then: 'error' | 'hold';
}

/**
 * Ten minutes: longer than a registry's restart or a token server's outage, short enough that an operator sees an I/O
 * error rather than processes that cannot be killed. (The reference hides it for 7 days.)
 */
export const DEFAULT_POLICY: IoPolicy = { deadlineMs: 600_000, then: 'error' };
