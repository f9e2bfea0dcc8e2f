import { DeviceError, type ReadPlan } from '../blob/index.js';
import { addon } from './addon.js';

/** What an event of {@link IoLoop.executeAndWait} says (enum io_op and io_event_kind of native/io_loop.h). */
export const IoEvent = {
  /** New commands. */
  READ: 1,
  WRITE: 2,
  DISCARD: 3,
  FLUSH: 4,
  /** A planned read could not be carried out (bad data, or a plan that does not fit): answer it the general way. */
  RETRY_READ: 5,
  /** The other side of a queue is gone; `length` is the errno (19, ENODEV, is the normal end). Remove the queue. */
  QUEUE_DEAD: 6,
  /** A removal is complete; the queue's index may come again. */
  QUEUE_CLOSED: 7,
  /** The wake descriptor was written to. */
  WOKEN: 8,
} as const;

/** Doubles of one event (struct io_event of native/io_loop.h). */
export const EventField = { KIND: 0, QUEUE: 1, ID: 2, OFFSET: 3, LENGTH: 4 } as const;
export const EVENT_STRIDE = 5;
/** Doubles of one planned command: id, first descriptor, number of descriptors. */
export const PLANNED_STRIDE = 3;
/** Most descriptors of one command (STEPS of io_loop.c). */
export const MAX_DESCRIPTORS = 1024;
/** What a loop returns from its wait when it was told to stop: -ECANCELED. */
export const STOPPED = -125;
/** Written to the wake descriptor: wake up; stop for good. */
export const WAKE = 1n;
export const STOP = 1n << 32n;

/** What a loop did so far. */
export interface IoLoopStats {
  /** Reads answered from the page cache, on the loop's thread. */
  readonly inlineReads: number;
  /** Reads given to the pool's threads. */
  readonly poolReads: number;
  /** Reads handed back as RETRY_READ. */
  readonly retriedReads: number;
  /** Plans that did not fit their command: a planner's bug. */
  readonly refusedPlans: number;
}

/** The compiled class; see native/io_loop.h for each method. Numbers below 0 are negative errno. */
export interface NativeIoLoop {
  add(handle: number, meter: Float64Array): number;
  remove(queue: number): number;
  execute(batch: Float64Array, batchCount: number, plan: Float64Array, planCount: number): number;
  executeAndWait(
    batch: Float64Array,
    batchCount: number,
    plan: Float64Array,
    planCount: number,
    events: Float64Array,
    timeoutMs: number,
  ): number;
  complete(id: number, status: number): number;
  completeRead(id: number, data: Uint8Array): number;
  writeData(id: number, into: Uint8Array): number;
  poolMark(): number;
  poolPassed(mark: number): boolean;
  stats(): IoLoopStats;
  close(): void;
}

function check(result: number, action: string): number {
  if (result < 0) throw new DeviceError('OBD_DEVICE_KERNEL', `Cannot ${action}: errno ${-result}`);
  return result;
}

/**
 * One thread's loop over queues of block commands: native code waits, fetches, executes plans and completes; the
 * caller decides. Not to be shared between threads. Wraps native/io_loop.h.
 */
export class IoLoop {
  readonly #native: NativeIoLoop;

  /** @param wakeFd from {@link eventFd}; stays the caller's and must outlive the loop. */
  constructor(wakeFd: number) {
    this.#native = new addon.IoLoop(wakeFd);
  }

  /**
   * Takes over the queue with this handle (made by a front end's binding) and returns its index.
   * @param meter where its commands are counted, see {@link newMeter}.
   */
  add(handle: number, meter: Float64Array): number {
    return check(this.#native.add(handle, meter), 'add a queue to the I/O loop');
  }

  /** Takes no more commands from a queue. QUEUE_CLOSED follows once those in flight are answered. */
  remove(queue: number): void {
    check(this.#native.remove(queue), 'remove a queue from the I/O loop');
  }

  /**
   * Carries out the `batchCount` commands of `batch` ({@link PLANNED_STRIDE} doubles each) with their descriptors in
   * `plan`, tells the other sides what is complete, and waits up to `timeoutMs` (-1: for ever) for something to do.
   * Fills `events` ({@link EVENT_STRIDE} doubles each) and returns how many, possibly 0; or {@link STOPPED}.
   *
   * A command in no batch stays the caller's until `complete`, `completeRead` or a later batch. No allocation.
   */
  executeAndWait(
    batch: Float64Array,
    batchCount: number,
    plan: ReadPlan,
    events: Float64Array,
    timeoutMs: number,
  ): number {
    const n = this.#native.executeAndWait(batch, batchCount, plan.words, plan.length, events, timeoutMs);
    return n === STOPPED ? n : check(n, 'run the I/O loop');
  }

  /** The first half of {@link executeAndWait}, for when a plan is full. */
  execute(batch: Float64Array, batchCount: number, plan: ReadPlan): void {
    check(this.#native.execute(batch, batchCount, plan.words, plan.length), 'carry out read plans');
  }

  /** Ends a command with 0 or a negative errno. A read ends well only through {@link completeRead}. */
  complete(id: number, status: number): void {
    check(this.#native.complete(id, status), `complete command ${id}`);
  }

  /** Ends a read with its data, of exactly its length. */
  completeRead(id: number, data: Uint8Array): void {
    check(this.#native.completeRead(id, data), `complete read ${id}`);
  }

  /** Copies the data of a write, of exactly its length. Does not end the command. */
  writeData(id: number, into: Uint8Array): void {
    check(this.#native.writeData(id, into), `take the data of write ${id}`);
  }

  /** How many reads the pool was given so far; for {@link poolPassed}. */
  poolMark(): number {
    return this.#native.poolMark();
  }

  /** True once every read that the pool was given before `mark` has left it. */
  poolPassed(mark: number): boolean {
    return this.#native.poolPassed(mark);
  }

  stats(): IoLoopStats {
    return this.#native.stats();
  }

  /** Waits for the pool, then lets go of all queues; commands in flight are not answered. */
  close(): void {
    this.#native.close();
  }
}

/** Makes an event counter descriptor; close it with `node:fs`. */
export function eventFd(): number {
  return check(addon.eventFd(), 'make an eventfd');
}

/** Destroys a queue that was made but never given to a loop. False if the handle is not known (any more). */
export function discardQueue(handle: number): boolean {
  return addon.discardQueue(handle);
}
