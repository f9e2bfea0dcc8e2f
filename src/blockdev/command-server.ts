import type { Logger } from '../log/index.js';
import { IoEvent } from '../native/index.js';
import type { BlockDevice } from './block-device.js';
import { IoGuard } from './io-guard.js';
import type { CommandAnswer, PostedCommand } from './io-protocol.js';
import { Status, answerTo } from './sense.js';

/** Bytes of one device that may be on their way through the main thread: eight of FUSE's largest requests, twice. */
const MAX_BYTES = 16 << 20;
/**
 * Answers one device's commands the general way, on the main thread: reads whose bytes are not local, and every write,
 * discard and flush. What fails for a reason that may pass is repeated as the device's policy says (io-guard.ts); then it
 * is a medium error with its address in the log. A flush waits for the writes before it.
 */
export class CommandServer {
  /** Its failure policy at work. */
  readonly guard: IoGuard;
  readonly #device: BlockDevice;
  readonly #logger: Logger;
  readonly #changes = new Set<Promise<void>>();
  readonly #waiting: { readonly bytes: number; readonly resolve: () => void }[] = [];
  #bytes = 0;

  constructor(device: BlockDevice, logger: Logger) {
    this.#device = device;
    this.#logger = logger;
    this.guard = new IoGuard(device, logger);
  }

  /** Commands stop waiting: those that fail from now on fail at once. */
  stop(): void {
    this.guard.stop();
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
          await this.guard.change(0, 0, () => this.#device.flush());
        } else {
          await this.#change(command);
        }
        return { id, status: Status.OK };
      } finally {
        this.#leave(weight);
      }
    } catch (error) {
      this.guard.failed(error);
      const { status } = answerTo(error);
      this.#logger.error({ err: error, op, offset, length, status }, 'command failed');
      return { id, status };
    }
  }

  async #read(offset: number, length: number): Promise<Uint8Array> {
    const data = new Uint8Array(length);
    await this.guard.read(offset, data);
    return data;
  }

  async #change({ op, offset, length, data }: PostedCommand): Promise<void> {
    const work = this.guard.change(offset, length, () =>
      op === IoEvent.WRITE && data !== undefined
        ? this.#device.write(offset, data)
        : this.#device.discard(offset, length),
    );
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
}
