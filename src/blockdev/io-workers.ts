import { closeSync, writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads';
import { DeviceError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { STOP, WAKE, discardQueue, eventFd } from '../native/index.js';
import type { BlockDevice } from './block-device.js';
import { CommandServer } from './command-server.js';
import { DeviceMeter, type DeviceCounters, type OnServed } from './device-meter.js';
import type { DeviceHealth, IoGuard } from './io-guard.js';
import type { CommandAnswer, FromWorker, ToWorker, WorkerSetup } from './io-protocol.js';
import { Status } from './sense.js';

/** How the workers are made. */
export interface IoWorkersOptions {
  readonly logger: Logger;
  /** Threads; default the machine's processors, at most 4: a thread serves many devices. */
  readonly count?: number;
  /** URL of the module whose `createPlanner(description)` builds planners; without it every read takes the general way. */
  readonly plannerModule?: string;
  /** Told when a worker dies. Default: throw, which ends the process; its devices live on and the next process adopts them. */
  readonly onFatal?: (error: Error) => void;
  readonly onServed?: OnServed | undefined;
}

/** A queue that a worker serves. */
export interface ServedQueue {
  readonly counters: DeviceCounters;
  /** Its commands and how long they took, by cause. */
  readonly meter: DeviceMeter;
  readonly health: DeviceHealth;
  /** The device's failure policy at work. */
  readonly guard: IoGuard;
  /** Settles when the queue is gone: 0 after {@link remove}, else the errno that its other side ended with. */
  readonly gone: Promise<number>;
  /**
   * Takes no more commands, waits until those in flight are answered, and lets go of the queue. A read that is being
   * repeated fails now. Idempotent.
   */
  remove(): Promise<void>;
  /** The same, but reads go on being repeated. False if something is still in flight after `deadlineMs`. */
  drain(deadlineMs: number): Promise<boolean>;
}

class Queue implements ServedQueue {
  readonly server: CommandServer;
  readonly meter = new DeviceMeter();
  readonly gone: Promise<number>;
  settleGone: (errno: number) => void = () => undefined;
  readonly #ask: () => void;

  constructor(server: CommandServer, ask: () => void) {
    this.server = server;
    this.#ask = ask;
    this.gone = new Promise((resolve) => (this.settleGone = resolve));
  }

  get health(): DeviceHealth {
    return this.server.guard.health;
  }

  get guard(): IoGuard {
    return this.server.guard;
  }

  get counters(): DeviceCounters {
    return this.meter.counters;
  }

  async remove(): Promise<void> {
    this.server.stop();
    this.#ask();
    await this.gone;
  }

  async drain(deadlineMs: number): Promise<boolean> {
    this.#ask();
    const late = sleep(deadlineMs, false, { ref: false });
    return Promise.race([this.gone.then(() => true), late]);
  }
}

/** The main thread's end of one worker. */
class IoWorker {
  readonly queues = new Map<number, Queue>();
  readonly #thread: Worker;
  readonly #port: MessagePort;
  readonly #wakeFd: number;
  readonly #requests = new Map<number, { resolve: () => void; reject: (error: unknown) => void }>();
  readonly #exited: Promise<void>;
  #answers: CommandAnswer[] = [];
  #lastRequest = 0;
  #stopping = false;
  readonly stopNow = (): void => {
    this.#stopping = true;
    wake(this.#wakeFd, STOP);
  };

  constructor(plannerModule: string | undefined, onFatal: (error: Error) => void) {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#wakeFd = eventFd();
    const workerData: WorkerSetup = {
      port: port2,
      wakeFd: this.#wakeFd,
      plannerModule: plannerModule ?? null,
    };
    this.#thread = new Worker(new URL('./io-worker.js', import.meta.url), {
      workerData,
      transferList: [port2],
      name: 'overlaybd-io',
      execArgv: [], // what starts this process need not suit a worker
    });
    const die = (reason: string, cause?: unknown): void => {
      const error = new DeviceError('OBD_DEVICE_KERNEL', `I/O worker ended: ${reason}`, { cause });
      for (const { reject } of this.#requests.values()) reject(error);
      this.#requests.clear();
      if (this.#stopping) return;
      this.#stopping = true;
      onFatal(error);
    };
    this.#thread.on('error', (error) => {
      die(String(error), error);
    });
    this.#exited = new Promise((resolve) => {
      this.#thread.on('exit', () => {
        die('its thread is over');
        process.off('exit', this.stopNow);
        this.#port.close();
        closeSync(this.#wakeFd);
        for (const queue of this.queues.values()) {
          queue.server.stop();
          queue.settleGone(-Status.NO_DEVICE);
        }
        this.queues.clear();
        resolve();
      });
    });
    // A worker in its native wait would keep process.exit() from ending.
    process.on('exit', this.stopNow);
    this.#port.on('message', (message: FromWorker) => {
      this.#receive(message);
    });
  }

  /** Posts a request and waits until the worker has done it. */
  request(build: (request: number) => ToWorker): Promise<void> {
    const request = ++this.#lastRequest;
    return new Promise((resolve, reject) => {
      this.#requests.set(request, { resolve, reject });
      this.post(build(request));
    });
  }

  post(message: ToWorker, transfers: readonly ArrayBuffer[] = []): void {
    if (this.#stopping) return;
    this.#port.postMessage(message, transfers);
    wake(this.#wakeFd, WAKE);
  }

  async stop(): Promise<void> {
    if (!this.#stopping) this.stopNow();
    await this.#exited;
  }

  #receive(message: FromWorker): void {
    switch (message.type) {
      case 'ready':
        break;
      case 'done': {
        const waiting = this.#requests.get(message.request);
        this.#requests.delete(message.request);
        if ('error' in message) waiting?.reject(message.error);
        else waiting?.resolve();
        break;
      }
      case 'commands':
        for (const command of message.commands)
          void this.queues
            .get(command.device)
            ?.server.serve(command)
            .then((answer) => {
              this.#answer(answer);
            });
        break;
      case 'gone':
        this.queues.get(message.device)?.settleGone(message.errno);
        this.queues.delete(message.device);
        break;
    }
  }

  /** Collects the answers of one turn of the event loop into one message. */
  #answer(answer: CommandAnswer): void {
    if (this.#answers.push(answer) > 1) return;
    setImmediate(() => {
      const answers = this.#answers;
      this.#answers = [];
      const transfers = answers.flatMap(({ data }) =>
        data?.buffer instanceof ArrayBuffer ? [data.buffer] : [],
      );
      this.post({ type: 'answers', answers }, transfers);
    });
  }
}

function wake(fd: number, amount: bigint): void {
  writeSync(fd, new BigUint64Array([amount]));
}

/**
 * The process's I/O workers. A front end makes a native queue (native/io_queue.h) and gives its handle here together
 * with the device behind it; one of the workers then answers the queue's commands.
 */
export class IoWorkers {
  readonly #workers: readonly IoWorker[];
  readonly #logger: Logger;
  readonly #onServed: OnServed | undefined;
  #lastDevice = 0;
  #closed = false;

  constructor(options: IoWorkersOptions) {
    this.#logger = options.logger;
    this.#onServed = options.onServed;
    const count = options.count ?? Math.min(availableParallelism(), 4);
    const fatal = (error: Error): void => {
      this.#logger.error({ err: error }, 'an I/O worker died; ending so that the next process takes over');
      if (options.onFatal !== undefined) options.onFatal(error);
      else
        process.nextTick(() => {
          throw error;
        });
    };
    this.#workers = Array.from({ length: count }, () => new IoWorker(options.plannerModule, fatal));
  }

  /**
   * Serves a queue with a device until either goes away. The device stays the caller's, to be closed after
   * {@link ServedQueue.gone}. Owns the handle: on failure the queue is destroyed.
   */
  async serve(handle: number, device: BlockDevice, logger: Logger = this.#logger): Promise<ServedQueue> {
    const worker = this.#workers.reduce((least, w) => (w.queues.size < least.queues.size ? w : least));
    const number = ++this.#lastDevice;
    const queue = new Queue(new CommandServer(device, logger.child({ image: device.name })), () => {
      worker.post({ type: 'remove', device: number });
    });
    worker.queues.set(number, queue);
    try {
      if (this.#closed)
        throw new DeviceError('OBD_DEVICE_KERNEL', 'Cannot serve a device: the I/O workers are closed');
      await worker.request((request) => ({
        type: 'serve',
        request,
        device: number,
        handle,
        planner: device.planner,
        meter: queue.meter.words,
        reads: device.reads.memory,
      }));
      const forget = device.onReplan((planner) =>
        worker.request((request) => ({ type: 'replan', request, device: number, planner })),
      );
      void queue.gone.then(forget);
      void queue.gone.then(this.#onServed?.(queue.meter));
      return queue;
    } catch (error) {
      worker.queues.delete(number);
      discardQueue(handle);
      throw error;
    }
  }

  /**
   * Settles when every local read planned before the call is over. Whoever takes bytes away (hole punching) first
   * clears their presence, then waits for this, then punches.
   */
  async quiesce(): Promise<void> {
    await Promise.all(this.#workers.map((w) => w.request((request) => ({ type: 'quiesce', request }))));
  }

  /**
   * Ends the threads. Commands in flight are abandoned: remove the queues first to have them answered.
   * Idempotent.
   */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#workers.map((w) => w.stop()));
  }
}
