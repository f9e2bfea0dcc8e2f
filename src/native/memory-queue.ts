import { DeviceError } from '../blob/index.js';
import { addon } from './addon.js';
import { IoEvent } from './io-loop.js';

/** The compiled class; see native/memory_queue.h. Numbers below 0 are negative errno. */
export interface NativeMemoryQueue {
  publish(): number;
  submit(op: number, offset: number, length: number, data: Uint8Array | undefined): number;
  /** Flat: id, status, data, id, status, data... */
  drain(): (number | Uint8Array)[];
  violations(): number;
  close(): void;
}

/** How a command of a {@link MemoryQueue} ended. */
export interface MemoryAnswer {
  /** 0 or a negative errno. */
  readonly status: number;
  /** What was read; empty for other commands. */
  readonly data: Uint8Array;
}

/**
 * The client's side of a queue of block commands whose server is an I/O loop of this process. For tests and
 * benchmarks. At most 1024 commands in flight; more settle with -11 (EAGAIN).
 */
export class MemoryQueue {
  readonly #native: NativeMemoryQueue;
  readonly #waiting = new Map<number, (answer: MemoryAnswer) => void>();

  constructor(size: number, readOnly: boolean) {
    this.#native = new addon.MemoryQueue(size, readOnly, () => {
      this.#drain();
    });
  }

  /** The handle to give to a loop, once. */
  publish(): number {
    const handle = this.#native.publish();
    if (handle < 0) throw new DeviceError('OBD_DEVICE_KERNEL', `Cannot publish a queue: errno ${-handle}`);
    return handle;
  }

  read(offset: number, length: number): Promise<MemoryAnswer> {
    return this.#submit(IoEvent.READ, offset, length);
  }

  write(offset: number, data: Uint8Array): Promise<MemoryAnswer> {
    return this.#submit(IoEvent.WRITE, offset, data.byteLength, data);
  }

  discard(offset: number, length: number): Promise<MemoryAnswer> {
    return this.#submit(IoEvent.DISCARD, offset, length);
  }

  flush(): Promise<MemoryAnswer> {
    return this.#submit(IoEvent.FLUSH, 0, 0);
  }

  /** Commands in flight. */
  get inFlight(): number {
    return this.#waiting.size;
  }

  /** Answers that came twice or for nothing: always 0, or the loop has a bug. */
  violations(): number {
    return this.#native.violations();
  }

  /** Goes away; what is in flight settles with -19 (ENODEV). Idempotent. */
  close(): void {
    this.#drain();
    this.#native.close();
    for (const settle of this.#waiting.values()) settle({ status: -19, data: new Uint8Array(0) });
    this.#waiting.clear();
  }

  #submit(op: number, offset: number, length: number, data?: Uint8Array): Promise<MemoryAnswer> {
    const id = this.#native.submit(op, offset, length, data);
    if (id < 0) return Promise.resolve({ status: id, data: new Uint8Array(0) });
    return new Promise((resolve) => this.#waiting.set(id, resolve));
  }

  #drain(): void {
    const answers = this.#native.drain();
    for (let i = 0; i + 2 < answers.length; i += 3) {
      const id = answers[i] as number; // the layout of NativeMemoryQueue.drain
      const settle = this.#waiting.get(id);
      this.#waiting.delete(id);
      settle?.({ status: answers[i + 1] as number, data: answers[i + 2] as Uint8Array });
    }
  }
}
