/**
 * Messages between the main thread and an I/O worker. All are posted through one MessagePort per worker; after
 * posting, main adds to the worker's wake descriptor, because the worker never returns to its event loop.
 */
import type { MessagePort } from 'node:worker_threads';
import type { PlannerDescription } from './block-device.js';
import type { ReadRecordMemory } from './read-record.js';

/** Given to a worker when it starts. */
export interface WorkerSetup {
  readonly port: MessagePort;
  readonly wakeFd: number;
  /** URL of a module that exports `createPlanner(description): ReadPlanner`; null: every command goes to main. */
  readonly plannerModule: string | null;
}

/** What main says. `device` is main's number for a queue; `request` is answered by `done`. */
export type ToWorker =
  | {
      readonly type: 'serve';
      readonly request: number;
      readonly device: number;
      readonly handle: number;
      readonly planner: PlannerDescription;
      /** Where its commands are counted; shared memory. */
      readonly meter: Float64Array;
      readonly reads: ReadRecordMemory;
    }
  | {
      readonly type: 'replan';
      readonly request: number;
      readonly device: number;
      readonly planner: PlannerDescription;
    }
  | { readonly type: 'remove'; readonly device: number }
  | { readonly type: 'answers'; readonly answers: readonly CommandAnswer[] }
  | { readonly type: 'quiesce'; readonly request: number };

/** The end of a command that main answered. */
export interface CommandAnswer {
  readonly id: number;
  readonly status: number;
  /** A read's bytes, if status is 0. */
  readonly data?: Uint8Array;
}

/** A command that the worker leaves to main. */
export interface PostedCommand {
  readonly device: number;
  readonly id: number;
  /** IoEvent.READ, WRITE, DISCARD or FLUSH. */
  readonly op: number;
  readonly offset: number;
  readonly length: number;
  /** A write's bytes. */
  readonly data?: Uint8Array;
}

/** What a worker says. */
export type FromWorker =
  | { readonly type: 'ready' }
  | { readonly type: 'done'; readonly request: number; readonly error?: unknown }
  | { readonly type: 'commands'; readonly commands: readonly PostedCommand[] }
  /** The queue is gone: errno 0 after `remove`, else why its other side ended. */
  | { readonly type: 'gone'; readonly device: number; readonly errno: number };
