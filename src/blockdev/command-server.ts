import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../log/index.js';
import { IoEvent } from '../native/index.js';
import type { BlockDevice } from './block-device.js';
import type { CommandAnswer, PostedCommand } from './io-protocol.js';
import { Status, answerTo } from './sense.js';

/** Bytes of one device that may be on their way through the main thread: eight of FUSE's largest requests, twice. */
const MAX_BYTES = 16 << 20;
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 30_000;
/** Log the first failure of a read and then every tenth. */
const LOG_EVERY = 10;

/** What an operator wants to know about a device that waits. */
export interface DeviceHealth {
  /** Reads that failed and are being repeated now. */
  readonly retrying: number;
  /** Commands that ended with an error, ever. */
  readonly errors: number;
  /** The last failure's sentence and time, if any. */
  readonly lastError: string | undefined;
  readonly lastErrorAt: Date | undefined;
}

/**
 * Answers one device's commands the general way, on the main thread: reads whose bytes are not local, and every write,
 * discard and flush. A failing read is repeated with growing pauses until the device's deadline, if its failure may
 * pass; then it is a medium error with its address in the log. A flush waits for the writes before it.
 */
export class CommandServer {
  readonly #device: BlockDevice;
  readonly #logger: Logger;
  readonly #stop = new AbortController();
  readonly #changes = new Set<Promise<void>>();
  readonly #waiting: { readonly bytes: number; readonly resolve: () => void }[] = [];
  #bytes = 0;
  #retrying = 0;
  #errors = 0;
  #lastError: string | undefined;
  #lastErrorAt: Date | undefined;

  constructor(device: BlockDevice, logger: Logger) {
    this.#device = device;
    this.#logger = logger;
  }

  get health(): DeviceHealth {
    return {
      retrying: this.#retrying,
      errors: this.#errors,
      lastError: this.#lastError,
      lastErrorAt: this.#lastErrorAt,
    };
  }

  /** Reads stop waiting: those that fail from now on fail at once. */
  stop(): void {
    this.#stop.abort();
  }

  /** Carries out one command. Never rejects. */
  async serve(command: PostedCommand): Promise<CommandAnswer> {
    const { id, op, offset, length } = command;
    const weight = op === IoEvent.READ || op === IoEvent.WRITE ? length : 0;
    try {
      await this.#enter(weight);
      try {
        if (op === IoEvent.READ) return { id, status: Status.OK, data: await this.#read(offset, length) };
        if (op === IoEvent.FLUSH) {
          await Promise.all(this.#changes);
          await this.#device.flush();
        } else {
          await this.#change(command);
        }
        return { id, status: Status.OK };
      } finally {
        this.#leave(weight);
      }
    } catch (error) {
      this.#note(error);
      this.#errors++;
      const { status } = answerTo(error);
      this.#logger.error({ err: error, op, offset, length, status }, 'command failed');
      return { id, status };
    }
  }

  async #read(offset: number, length: number): Promise<Uint8Array> {
    const data = new Uint8Array(length);
    const deadline = performance.now() + this.#device.readDeadlineMs;
    let pause = FIRST_PAUSE_MS;
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#device.read(offset, data, { signal: this.#stop.signal });
        return data;
      } catch (error) {
        if (!answerTo(error).retry || this.#stop.signal.aborted || performance.now() + pause > deadline)
          throw error;
        this.#note(error);
        if (attempt % LOG_EVERY === 1)
          this.#logger.warn(
            { err: error, offset, length, attempt, pauseMs: pause },
            'read failed, repeating it',
          );
        this.#retrying++;
        try {
          await sleep(pause, undefined, { signal: this.#stop.signal });
        } catch {
          throw error; // told to stop: the failure stands
        } finally {
          this.#retrying--;
        }
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
      }
    }
  }

  async #change({ op, offset, length, data }: PostedCommand): Promise<void> {
    const work =
      op === IoEvent.WRITE && data !== undefined
        ? this.#device.write(offset, data)
        : this.#device.discard(offset, length);
    // A failed write is answered as such; a flush after it speaks only for those that did not fail.
    const settled = work.then(
      () => undefined,
      () => undefined,
    );
    this.#changes.add(settled);
    try {
      await work;
    } finally {
      this.#changes.delete(settled);
    }
  }

  /** Waits until there is room for so many bytes; first come, first served. One command alone always has room. */
  async #enter(bytes: number): Promise<void> {
    if (this.#waiting.length === 0 && this.#fits(bytes)) this.#bytes += bytes;
    else await new Promise<void>((resolve) => this.#waiting.push({ bytes, resolve }));
  }

  #leave(bytes: number): void {
    this.#bytes -= bytes;
    for (let next = this.#waiting[0]; next !== undefined && this.#fits(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#bytes += next.bytes;
      next.resolve();
    }
  }

  #fits(bytes: number): boolean {
    return this.#bytes === 0 || this.#bytes + bytes <= MAX_BYTES;
  }

  #note(error: unknown): void {
    this.#lastError = error instanceof Error ? error.message : String(error);
    this.#lastErrorAt = new Date();
  }
}
