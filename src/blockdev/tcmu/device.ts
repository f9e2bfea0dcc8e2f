import { setTimeout as sleep } from 'node:timers/promises';
import { ioError } from '../../blob/index.js';
import type { Logger } from '../../log/index.js';
import { openTcmuQueue } from '../../native/index.js';
import type { BlockDevice } from '../block-device.js';
import type { ImageOpener } from '../front-end.js';
import type { IoWorkers, ServedQueue } from '../io-workers.js';
import { backstoreDir } from './configfs.js';
import { mapSize } from './kernel.js';
import type { UioName } from './names.js';

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;

/** What a {@link TcmuDevice} works with. */
export interface TcmuContext {
  readonly openImage: ImageOpener;
  readonly workers: IoWorkers;
  readonly logger: Logger;
}

/**
 * One device of the kernel and the image behind it.
 *
 *   opening --image and ring are open--> serving --REMOVED, or the ring breaks--> closed
 *      '--fails: a new device is refused; an adopted one is tried again, because its users are waiting
 */
export class TcmuDevice {
  readonly name: UioName;
  readonly minor: number;
  readonly configPath: string;
  /** Set while serving. */
  device: BlockDevice | undefined;
  served: ServedQueue | undefined;
  /** Path of its disk, as of the last look; undefined while there is none. */
  devicePath: string | undefined;
  /** Why the last try to open failed. */
  lastError: unknown;
  readonly #context: TcmuContext;
  readonly #logger: Logger;
  readonly #stop = new AbortController();
  #work: Promise<void> = Promise.resolve();

  constructor(context: TcmuContext, name: UioName, configPath: string, minor: number) {
    this.#context = context;
    this.name = name;
    this.minor = minor;
    this.configPath = configPath;
    this.#logger = context.logger.child({ device: name.device, config: configPath });
  }

  /** The id that attach gave it. */
  get id(): string {
    return this.name.device.replace(/^dev_/, '');
  }

  /** Opens image and ring and serves. @throws what fails; nothing is open then. */
  open(): Promise<void> {
    const opening = this.#open();
    this.#work = opening.catch(() => undefined);
    return opening;
  }

  /** As {@link open}, but tried again until it succeeds or the device is closed. Never rejects. */
  openInTheEnd(): Promise<void> {
    this.#work = (async () => {
      for (
        let pause = FIRST_PAUSE_MS;
        !this.#stop.signal.aborted;
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS)
      )
        try {
          await this.#open();
          return;
        } catch (error) {
          this.#logger.warn({ err: error, pauseMs: pause }, 'cannot adopt the device yet; its I/O waits');
          await sleep(pause, undefined, { signal: this.#stop.signal }).catch(() => undefined);
        }
    })();
    return this.#work;
  }

  async #open(): Promise<void> {
    const started = performance.now();
    try {
      const device = await this.#context.openImage(this.configPath);
      try {
        await this.#serve(device);
      } catch (error) {
        await device.close();
        throw error;
      }
      this.#logger.info(
        { size: device.size, ms: Math.round(performance.now() - started) },
        'serving the device',
      );
    } catch (error) {
      this.lastError = error;
      throw error;
    }
  }

  async #serve(device: BlockDevice): Promise<void> {
    const { hba, device: backstore, config } = this.name;
    const path = `/dev/uio${this.minor}`;
    let handle: number;
    try {
      handle = openTcmuQueue(path, {
        mapSize: await mapSize(this.minor),
        size: device.size,
        readOnly: device.readOnly,
        config,
        serialPath: `${backstoreDir(hba, backstore)}/wwn/vpd_unit_serial`,
      });
    } catch (error) {
      throw ioError(error, `open "${path}"`, path);
    }
    const served = await this.#context.workers.serve(handle, device, this.#logger);
    this.device = device;
    this.served = served;
    void served.gone.then((errno) => {
      if (errno !== 0 && !this.#stop.signal.aborted)
        this.#logger.error({ errno }, 'the ring is broken; the device is not served any more');
    });
  }

  /** Lets go of ring and image, after the commands in flight. Idempotent. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#work;
    await this.served?.remove();
    await this.device?.close();
    this.served = undefined;
    this.device = undefined;
  }

  /**
   * Leaves the device to the next process: no more commands are taken, those in flight have until the deadline. Those
   * that are left are not answered; the next process has the kernel repeat them. Without any, the image is closed too:
   * its background work (a download that waits for its hour, say) would keep the process.
   */
  async leave(deadlineMs: number): Promise<void> {
    this.#stop.abort();
    await Promise.race([this.#work, sleep(deadlineMs, undefined, { ref: false })]);
    const drained = await this.served?.drain(deadlineMs);
    // What a command in flight reads from stays open; the process is about to end anyway.
    if (drained !== false)
      await Promise.race([this.device?.close(), sleep(deadlineMs, undefined, { ref: false })]);
  }
}
