/**
 * What a device does while its bytes cannot be had: the failure policy, and what an operator sees of it.
 *
 *   ready --a command fails, or waits for 30 s--> degraded --the policy's deadline--> blocked
 *     ^               (it is repeated)               |                                   |  then "error": commands fail
 *     '--- what failed succeeds: a command, or a small read that is made now and then ---'  then "hold": they go on waiting
 *
 * The deadline runs for the device, not for each command: a reader that makes a thousand reads in turn is not to wait a
 * thousand times for it. A command that comes while the device is blocked is tried for a moment, so that what can be had
 * is had. {@link IoGuard.abort} makes a device fail its commands until it is ready again, whatever its policy says.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { IoError, abortedError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { BlockDevice } from './block-device.js';
import { answerTo } from './sense.js';

/** See the head of this file. */
export type IoState = 'ready' | 'degraded' | 'blocked';

/** What an operator wants to know about a device that waits. */
export interface DeviceHealth {
  readonly state: IoState;
  /** When it stopped being ready; undefined while it is. */
  readonly since: Date | undefined;
  /** Why it is not ready: the last failure that made commands wait or fail. */
  readonly reason: unknown;
  /** Commands that failed and are being repeated now. */
  readonly retrying: number;
  /** Commands that ended with an error, ever. */
  readonly errors: number;
  /** The last failure's sentence and time, if any. */
  readonly lastError: string | undefined;
  readonly lastErrorAt: Date | undefined;
}

/** A command that has not ended. */
interface Pending {
  readonly offset: number;
  readonly length: number;
  readonly startedAt: number;
  readonly controller: AbortController;
  /** It has failed, or waits for too long. */
  waits: boolean;
}

interface Trouble {
  /** Monotonic, and for people. */
  readonly since: number;
  readonly at: Date;
  /** What is read to see whether it is over. */
  readonly offset: number;
  readonly length: number;
  reason: unknown;
  blocked: boolean;
  aborted: boolean;
  probing: boolean;
  nextProbe: number;
}

const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 30_000;
/** A command that takes longer is waiting: a registry's slowest good answer is well below. */
const SLOW_MS = 30_000;
/** How long a command is tried on a device that is blocked. */
const GRACE_MS = 1000;
/** The same for one that has not failed: it may just be slow. */
const BLOCKED_SLOW_MS = 10_000;
const TICK_MS = 1000;
/** A blocked device looks this often whether the cause has ended. */
const PROBE_MS = 5000;
const PROBE_BYTES = 4096;

/** See the head of this file. One per device. */
export class IoGuard {
  readonly #device: BlockDevice;
  readonly #logger: Logger;
  readonly #pending = new Set<Pending>();
  #trouble: Trouble | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Fires when repeated commands should be tried at once. */
  #again = new AbortController();
  readonly #stop = new AbortController();
  #retrying = 0;
  #errors = 0;
  #lastError: string | undefined;
  #lastErrorAt: Date | undefined;

  constructor(device: BlockDevice, logger: Logger) {
    this.#device = device;
    this.#logger = logger;
  }

  get health(): DeviceHealth {
    const trouble = this.#trouble;
    return {
      state: trouble === undefined ? 'ready' : trouble.blocked ? 'blocked' : 'degraded',
      since: trouble?.at,
      reason: trouble?.reason,
      retrying: this.#retrying,
      errors: this.#errors,
      lastError: this.#lastError,
      lastErrorAt: this.#lastErrorAt,
    };
  }

  /** Reads; repeats as the policy says what may succeed another time. @throws the last failure. */
  read(offset: number, into: Uint8Array): Promise<void> {
    return this.#repeat(offset, into.byteLength, (signal) => this.#device.read(offset, into, { signal }));
  }

  /** Carries out a write, discard or flush: once, unless the device waits for its image. @throws what `work` throws. */
  change(offset: number, length: number, work: () => Promise<void>): Promise<void> {
    return this.#device.waiting ? this.#repeat(offset, length, work) : work();
  }

  /** Counts a command that ended with an error. */
  failed(error: unknown): void {
    this.#errors++;
    this.#note(error);
  }

  /**
   * Fails every command that waits, and those that come, with an I/O error, until the device is ready again.
   * @returns how many were waiting.
   */
  abort(): number {
    const [first] = this.#pending;
    const count = this.#pending.size;
    if (this.#trouble === undefined && first === undefined) return 0;
    const error = new IoError('OBD_IO_FAILED', `I/O of "${this.#device.name}" was aborted by an operator`, {
      source: this.#device.name,
    });
    const trouble = this.#trouble ?? this.#begin(error, first?.offset ?? 0, performance.now());
    trouble.aborted = true;
    this.#block(trouble);
    for (const { controller } of this.#pending) controller.abort(error);
    return count;
  }

  /** Says that something is wrong that no command has met: the image does not open. */
  report(error: unknown): void {
    this.#note(error);
    if (this.#trouble === undefined) this.#begin(error, 0, performance.now());
    else this.#trouble.reason = error;
  }

  /** Has what waits tried again now. */
  retry(): void {
    this.#wakeAll();
    if (this.#trouble !== undefined) this.#trouble.nextProbe = 0;
    this.#tick();
  }

  /** Commands stop waiting: those that fail from now on fail at once. */
  stop(): void {
    this.#stop.abort();
    clearInterval(this.#timer);
    for (const { controller } of this.#pending) controller.abort();
  }

  async #repeat(offset: number, length: number, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const controller = new AbortController();
    const pending: Pending = { offset, length, startedAt: performance.now(), controller, waits: false };
    this.#pending.add(pending);
    this.#watch();
    if (this.#stop.signal.aborted) controller.abort();
    try {
      for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
        try {
          await unlessAborted(work(controller.signal), controller.signal);
          break;
        } catch (error) {
          const told: unknown = controller.signal.reason;
          if (controller.signal.aborted) throw isAbort(told) ? error : told;
          if (!answerTo(error).retry) throw error;
          this.#note(error);
          if (this.#refuses(pending, error)) throw error;
          this.#logger.debug({ err: error, offset, length, pauseMs: pause }, 'command failed, repeating it');
          await this.#pause(pause, controller.signal, error);
        }
      }
    } finally {
      this.#pending.delete(pending);
    }
    if (pending.waits) this.#succeeded();
  }

  /** Notes that a command failed; true if it is not to be repeated. */
  #refuses(pending: Pending, error: unknown): boolean {
    const trouble = (this.#trouble ??= this.#begin(error, pending.offset, performance.now()));
    trouble.reason = error;
    pending.waits = true;
    this.#blockWhenDue(trouble);
    return this.#isRefused(trouble, pending);
  }

  #isRefused(trouble: Trouble, { startedAt }: Pending): boolean {
    const { deadlineMs, then } = this.#device.policy;
    if (!trouble.blocked || (then === 'hold' && !trouble.aborted)) return false;
    return performance.now() - startedAt >= Math.min(deadlineMs, GRACE_MS);
  }

  /** Waits, but never past the deadline. @throws the failure, if told to stop or to abort. */
  async #pause(ms: number, signal: AbortSignal, failure: unknown): Promise<void> {
    const trouble = this.#trouble;
    const left =
      trouble === undefined || trouble.blocked
        ? Infinity
        : trouble.since + this.#device.policy.deadlineMs - performance.now();
    const most = trouble?.blocked === true && trouble.aborted ? GRACE_MS : LONGEST_PAUSE_MS;
    this.#retrying++;
    try {
      await sleep(Math.max(1, Math.min(ms, left, most)), undefined, {
        signal: AbortSignal.any([signal, this.#again.signal]),
      });
    } catch {
      if (signal.aborted) throw this.#stop.signal.aborted ? failure : signal.reason;
    } finally {
      this.#retrying--;
    }
  }

  #begin(reason: unknown, offset: number, since: number): Trouble {
    const length = Math.min(PROBE_BYTES, this.#device.size - offset);
    const trouble: Trouble = {
      since,
      at: new Date(Date.now() - Math.round(performance.now() - since)),
      offset,
      length,
      reason,
      blocked: false,
      aborted: false,
      probing: false,
      nextProbe: 0,
    };
    this.#trouble = trouble;
    const { deadlineMs, then } = this.#device.policy;
    if (deadlineMs > 0)
      this.#logger.warn({ err: reason, state: 'degraded', deadlineMs, then }, 'device is degraded: it waits');
    this.#watch();
    return trouble;
  }

  #blockWhenDue(trouble: Trouble): void {
    if (performance.now() - trouble.since >= this.#device.policy.deadlineMs) this.#block(trouble);
  }

  #block(trouble: Trouble): void {
    if (trouble.blocked) return;
    trouble.blocked = true;
    trouble.nextProbe = performance.now() + this.#probeMs;
    const fails = trouble.aborted || this.#device.policy.then === 'error';
    this.#logger.warn(
      { err: trouble.reason, state: 'blocked', since: trouble.at.toISOString() },
      fails ? 'device is blocked: its commands fail' : 'device is blocked: its commands wait',
    );
  }

  /** Something that failed has succeeded: so may the rest, now. */
  #succeeded(): void {
    this.#wakeAll();
    const trouble = this.#trouble;
    if (trouble === undefined || this.#anyWaits()) return;
    // What commands were refused for may be something else than what this one waited for.
    if (trouble.blocked && !trouble.probing) trouble.nextProbe = 0;
    else if (!trouble.blocked) this.#recover(trouble);
    this.#tick();
  }

  #wakeAll(): void {
    const again = this.#again;
    this.#again = new AbortController();
    again.abort();
  }

  #anyWaits(): boolean {
    for (const { waits } of this.#pending) if (waits) return true;
    return false;
  }

  #recover(trouble: Trouble): void {
    if (this.#trouble !== trouble) return;
    this.#trouble = undefined;
    this.#logger.warn(
      { state: 'ready', forMs: Math.round(performance.now() - trouble.since) },
      'device is ready again',
    );
  }

  /** Deadlines are kept to a tenth. */
  get #tickMs(): number {
    return Math.min(TICK_MS, Math.max(20, this.#device.policy.deadlineMs / 10));
  }

  get #probeMs(): number {
    return Math.min(PROBE_MS, Math.max(TICK_MS, this.#device.policy.deadlineMs));
  }

  /** Looks at the clock as long as there is something to look after. */
  #watch(): void {
    if (this.#timer !== undefined || this.#stop.signal.aborted) return;
    this.#timer = setInterval(() => {
      this.#tick();
    }, this.#tickMs);
    this.#timer.unref();
  }

  #tick(): void {
    const now = performance.now();
    const [oldest] = this.#pending;
    if (this.#trouble === undefined && oldest !== undefined && now - oldest.startedAt > SLOW_MS) {
      oldest.waits = true;
      const text = `Read of "${this.#device.name}" at ${oldest.offset} has had no answer for ${SLOW_MS / 1000} s`;
      const slow = new IoError('OBD_IO_FAILED', text, { source: this.#device.name, offset: oldest.offset });
      this.#note(slow);
      this.#begin(slow, oldest.offset, oldest.startedAt);
    }
    const trouble = this.#trouble;
    if (trouble !== undefined) {
      this.#blockWhenDue(trouble);
      for (const pending of this.#pending)
        if ((pending.waits || now - pending.startedAt > BLOCKED_SLOW_MS) && this.#isRefused(trouble, pending))
          pending.controller.abort(trouble.reason);
      const quiet = trouble.blocked || !this.#anyWaits();
      if (quiet && !trouble.probing && now >= trouble.nextProbe) void this.#probe(trouble);
    } else if (oldest === undefined) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
  }

  /** Nobody may be waiting any more, so somebody has to look. Never rejects. */
  async #probe(trouble: Trouble): Promise<void> {
    trouble.probing = true;
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(SLOW_MS)]);
    try {
      const { offset, length } = trouble;
      await unlessAborted(this.#device.read(offset, new Uint8Array(length), { signal }), signal);
      this.#wakeAll();
      this.#recover(trouble);
    } catch (error) {
      // Damage is no reason to be blocked: it is an error at once, wherever it is.
      if (!signal.aborted && !answerTo(error).retry) this.#recover(trouble);
      else if (!signal.aborted) trouble.reason = error;
    } finally {
      trouble.probing = false;
      trouble.nextProbe = performance.now() + this.#probeMs;
    }
  }

  #note(error: unknown): void {
    this.#lastError = error instanceof Error ? error.message : String(error);
    this.#lastErrorAt = new Date();
  }
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && (error.name === 'TimeoutError' || error.name === 'AbortError');
}

/** The work's outcome, or the signal's reason as soon as it fires, whether the work heeds it or not. */
async function unlessAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  let stop = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    stop = () => {
      const reason: unknown = signal.reason;
      reject(reason instanceof Error && !isAbort(reason) ? reason : abortedError('serve a command', signal));
    };
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
  try {
    await Promise.race([aborted, work]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
