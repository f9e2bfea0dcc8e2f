/**
 * Failures on request, and a slow line: what a registry does to its clients on bad days, so that it can be tried out.
 *
 *   KIND[,every=N][,after=N][,count=N][,on=blobs|manifests|uploads|all][,retry-after=S]
 *   KIND: status=CODE   answers with that status
 *         stall         sends half of the body, then nothing more
 *         truncate      sends half of the body, then closes the connection
 *         reset         closes the connection without an answer
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError } from '../blob/index.js';

/** Kinds of requests a fault can be limited to. */
export type RequestKind = 'blobs' | 'manifests' | 'uploads' | 'other';

/** What happens to an unlucky request. */
export interface Fault {
  readonly kind: 'status' | 'stall' | 'truncate' | 'reset';
  /** For kind `status`. */
  readonly status: number;
  /** Each N-th request of its kind; 1 is all. */
  readonly every: number;
  /** The first N are spared. */
  readonly after: number;
  /** At most N in all; 0 is no limit. */
  readonly count: number;
  readonly on: RequestKind | 'all';
  /** Seconds, with kind `status`. */
  readonly retryAfterS: number | undefined;
}

const SYNTAX =
  'status=CODE|stall|truncate|reset, then any of every=N, after=N, count=N, on=blobs|manifests|uploads|all, retry-after=SECONDS';

/** Parses one specification. @throws ConfigError OBD_CONFIG_VALUE */
export function parseFault(text: string): Fault {
  const bad = (why: string): ConfigError =>
    new ConfigError('OBD_CONFIG_VALUE', `Cannot parse failure "${text}": ${why}`, {
      source: text,
      hint: `Expected ${SYNTAX}`,
    });
  const [head = '', ...rest] = text.split(',').map((part) => part.trim());
  const [kind = '', code] = head.split('=');
  if (kind !== 'status' && kind !== 'stall' && kind !== 'truncate' && kind !== 'reset')
    throw bad(`"${kind}" is no kind of failure`);
  const status = Number(code ?? 0);
  if (kind === 'status' && !(Number.isInteger(status) && status >= 400 && status <= 599))
    throw bad(`"${code ?? ''}" is no status from 400 to 599`);
  const values: Record<string, string> = {};
  for (const part of rest) {
    const [key = '', value = ''] = part.split('=');
    if (!['every', 'after', 'count', 'on', 'retry-after'].includes(key)) throw bad(`"${key}" is no option`);
    if (key !== 'on' && !/^\d{1,9}$/.test(value)) throw bad(`${key} needs a number`);
    values[key] = value;
  }
  const on = values['on'] ?? 'all';
  if (on !== 'all' && on !== 'blobs' && on !== 'manifests' && on !== 'uploads')
    throw bad(`"${on}" is no kind of request`);
  const every = Number(values['every'] ?? 1);
  if (every < 1) throw bad('every must be at least 1');
  return {
    kind,
    status,
    every,
    after: Number(values['after'] ?? 0),
    count: Number(values['count'] ?? 0),
    on,
    retryAfterS: values['retry-after'] === undefined ? undefined : Number(values['retry-after']),
  };
}

/** Counts requests and says which of them fail. */
export class FaultPlan {
  readonly #faults: { readonly fault: Fault; seen: number; done: number }[];

  constructor(faults: readonly Fault[]) {
    this.#faults = faults.map((fault) => ({ fault, seen: 0, done: 0 }));
  }

  /** The fault of the next request of a kind. Every call counts as one. */
  next(kind: RequestKind): Fault | undefined {
    let hit: Fault | undefined;
    for (const state of this.#faults) {
      const { fault } = state;
      if (fault.on !== 'all' && fault.on !== kind) continue;
      const number = ++state.seen - fault.after;
      if (hit !== undefined || number < 1 || number % fault.every !== 0) continue;
      if (fault.count > 0 && state.done >= fault.count) continue;
      state.done++;
      hit = fault;
    }
    return hit;
  }
}

/** A line of limited speed, shared by everything that is sent over it. */
export class Line {
  readonly #bytesPerMs: number;
  #freeAt = 0;

  /** @param bytesPerSecond Infinity: no limit. */
  constructor(bytesPerSecond: number) {
    this.#bytesPerMs = bytesPerSecond / 1000;
  }

  get limited(): boolean {
    return Number.isFinite(this.#bytesPerMs);
  }

  /** Settles when the bytes would have gone through. */
  async carry(bytes: number, signal: AbortSignal): Promise<void> {
    if (!this.limited) return;
    const now = performance.now();
    // An idle line does not save up.
    this.#freeAt = Math.max(this.#freeAt, now) + bytes / this.#bytesPerMs;
    const wait = this.#freeAt - now;
    if (wait > 1) await sleep(wait, undefined, { signal });
  }
}

/** `25Mbit`, `3MB`, `512K` (bytes) per second, as bytes per second. @throws ConfigError */
export function parseRate(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmg]?)(bit|b|bps)?(?:\/s)?$/i.exec(text.trim());
  const scale = { '': 1, k: 1e3, m: 1e6, g: 1e9 }[(match?.[2] ?? '').toLowerCase()] ?? 1;
  const unit = match?.[3] ?? 'B';
  const bits = /^(bit|bps)$/i.test(unit);
  const rate = (Number(match?.[1]) * scale) / (bits ? 8 : 1);
  if (match === null || !(rate > 0))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot parse rate "${text}": expected for example 25Mbit or 3MB (per second)`,
      { source: text },
    );
  return rate;
}

/** `20ms`, `1.5s`, `20` as milliseconds. @throws ConfigError */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s)?$/.exec(text.trim());
  const ms = Number(match?.[1]) * (match?.[2] === 's' ? 1000 : 1);
  if (match === null || ms > 3_600_000)
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot parse duration "${text}": expected for example 20ms or 1.5s`,
      { source: text },
    );
  return ms;
}
