import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SECTOR, ioError } from '../../blob/index.js';
import type { Logger } from '../../log/index.js';
import { openTcmuQueue } from '../../native/index.js';
import type { BlockDevice } from '../block-device.js';
import type { ImageOpener } from '../front-end.js';
import type { IoWorkers, ServedQueue } from '../io-workers.js';
import { DEFAULT_POLICY, type IoPolicy } from '../io-policy.js';
import { LateDevice } from '../late-device.js';
import { backstoreDir, findLun } from './configfs.js';
import { mapSize } from './kernel.js';
import type { UioName } from './names.js';

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;
/** An image that takes longer to open is reported, and its users are answered. */
const LATE_MS = 5000;

/** What a {@link TcmuDevice} works with. */
export interface TcmuContext {
  readonly openImage: ImageOpener;
  readonly workers: IoWorkers;
  /** The policy for a device whose image does not open; default {@link DEFAULT_POLICY}. Never rejects. */
  readonly policyOf?: ((configPath: string) => Promise<IoPolicy>) | undefined;
  readonly logger: Logger;
}

/**
 * One device of the kernel and the image behind it.
 *
 *   opening --image and ring are open--> serving --REMOVED, or the ring breaks--> closed
 *      '--fails: a new device is refused; an adopted one is tried again, because its users are waiting. Meanwhile a
 *         {@link LateDevice} answers them, as the policy says
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
  /** The kernel kept it: it may have users. */
  #adopted = false;
  #late: LateDevice | undefined;

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
    this.#adopted = true;
    this.#work = this.#openInTheEnd().catch((error: unknown) => {
      this.#logger.error({ err: error }, 'cannot adopt the device');
    });
    return this.#work;
  }

  async #openInTheEnd(): Promise<void> {
    const { signal } = this.#stop;
    for (let pause = FIRST_PAUSE_MS; !signal.aborted; pause = Math.min(pause * 2, LONGEST_PAUSE_MS))
      try {
        await this.#open();
        return;
      } catch (error) {
        this.#logger.debug({ err: error, pauseMs: pause }, 'cannot adopt the device yet');
        if (!this.#stop.signal.aborted) await this.#standIn(error);
        await sleep(pause, undefined, { signal }).catch(() => undefined);
      }
  }

  /** Lets a {@link LateDevice} answer the device's users, if it has any: without a disk nobody can wait. */
  async #standIn(reason: unknown): Promise<void> {
    try {
      if (this.#late === undefined) {
        const disk = await this.#disk();
        if (disk === undefined) return;
        const policy = (await this.#context.policyOf?.(this.configPath)) ?? DEFAULT_POLICY;
        this.#late = new LateDevice(this.configPath, disk, policy, reason);
        await this.#serve(this.#late);
      }
      this.#late.reason = reason;
      this.served?.guard.report(this.#late.reason);
    } catch (error) {
      this.#late = undefined;
      this.#logger.warn({ err: error, reason }, 'cannot answer for a device whose image does not open');
    }
  }

  /** What its users see. */
  async #disk(): Promise<{ size: number; readOnly: boolean } | undefined> {
    const { hba, device } = this.name;
    this.devicePath = (await findLun(hba, device))?.devicePath;
    if (this.devicePath === undefined) return undefined;
    const dir = `/sys/block/${basename(this.devicePath)}`;
    const number = async (name: string): Promise<number> => Number(await readFile(`${dir}/${name}`, 'utf8'));
    return { size: (await number('size')) * SECTOR, readOnly: (await number('ro')) === 1 };
  }

  /** The image is here: what waits goes to it, and then it takes the stand-in's place. */
  async #replaceLate(device: BlockDevice): Promise<void> {
    const { served } = this;
    if (this.#late === undefined || served === undefined) return;
    this.#late.arrive(device);
    served.guard.retry();
    await served.drain(0);
    await served.gone;
    this.#late = undefined;
  }

  async #open(): Promise<void> {
    const started = performance.now();
    let standingIn: Promise<void> | undefined;
    try {
      const opening = this.#context.openImage(this.configPath);
      const timer = setTimeout(() => {
        if (this.#adopted) standingIn = this.#standIn(new Error('it is being opened'));
      }, LATE_MS);
      const device = await opening.finally(async () => {
        clearTimeout(timer);
        await standingIn;
      });
      try {
        await this.#replaceLate(device);
        this.#stop.signal.throwIfAborted();
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
    if (this.#late !== undefined) await this.served?.remove();
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
