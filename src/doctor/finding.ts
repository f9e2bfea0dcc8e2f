/** What a check finds, and how long it may take. */
import { OverlaybdError } from '../blob/index.js';
import type { Logger } from '../log/index.js';

/** `failed`: something does not work. `warning`: it works, but not as it should. `skipped`: there was nothing to check. */
export type Status = 'ok' | 'warning' | 'failed' | 'skipped';

/** One line of the report. No secrets are in it. */
export interface Finding {
  readonly part: string;
  readonly status: Status;
  readonly detail: string;
  /** What to do about it. */
  readonly todo?: string | undefined;
}

/** A check: its part's name and what finds out. */
export interface Check {
  readonly part: string;
  run(): Promise<Finding | readonly Finding[]>;
}

/** Checks that did not come back. */
export class Hanging {
  count = 0;
}

/** Runs a check; one that takes too long or throws has failed, and the others go on. Never rejects. */
export async function runCheck(
  check: Check,
  timeoutMs: number,
  hanging: Hanging,
): Promise<readonly Finding[]> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Finding>((resolve) => {
    timer = setTimeout(() => {
      hanging.count++;
      resolve({
        part: check.part,
        status: 'failed',
        detail: `no result within ${timeoutMs / 1000} s`,
        todo: 'Something that it needs hangs: a file system, a program or a socket; dmesg and ps may tell',
      });
    }, timeoutMs);
  });
  try {
    return [await Promise.race([check.run(), late])].flat();
  } catch (error) {
    return [failure(check.part, error)];
  } finally {
    clearTimeout(timer);
  }
}

/** The finding that an error amounts to. */
export function failure(part: string, error: unknown): Finding {
  const lines: string[] = [];
  for (let e: unknown = error; e instanceof Error && lines.length < 4; e = e.cause)
    if (!lines.some((line) => line.includes(e.message))) lines.push(e.message);
  return {
    part,
    status: 'failed',
    detail: lines.length > 0 ? lines.join(', because: ') : String(error),
    ...(error instanceof OverlaybdError && error.hint !== undefined ? { todo: error.hint } : {}),
  };
}

/** A logger that keeps its warnings as sentences. */
export function warningCollector(): { readonly log: Logger; readonly warnings: string[] } {
  const warnings: string[] = [];
  const nothing = (): void => undefined;
  const warn = (fields: unknown, message?: string): void => {
    const { key, nearest, instead } = (typeof fields === 'object' ? fields : {}) as Record<string, unknown>;
    const more = [
      ...(typeof nearest === 'string' ? [`perhaps "${nearest}"`] : []),
      ...(typeof instead === 'string' ? [instead] : []),
    ].join(', ');
    warnings.push(
      `${message ?? String(fields)}${typeof key === 'string' ? `: "${key}"` : ''}${more === '' ? '' : ` (${more})`}`,
    );
  };
  const log = { trace: nothing, debug: nothing, info: nothing, warn, error: warn, child: () => log };
  // pino's methods have more overloads than the configuration's readers use.
  return { log: log, warnings };
}
