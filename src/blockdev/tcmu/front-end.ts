/**
 * TCMU: `/dev/sdX` through the kernel's SCSI target, kept alive by the kernel while no service runs.
 *
 * The kernel announces devices over netlink and waits for replies; anybody may make a device by writing to configfs,
 * this class included (attach). Images open concurrently; each reply names its device. docs/data-path.md tells how the
 * commands themselves flow.
 *
 * Start: hold netlink back, end the waits for a predecessor, announce, take over the rings that are there, let netlink
 * go. Until it is let go, whoever enables a device gets EAGAIN and tries again.
 *
 * The kernel announces every device to every handler, and takes the first reply: tcmu-runner's devices are left to it. But
 * without any reply whoever makes or removes one would wait for ever, so after a while we answer for those too.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { DeviceError } from '../../blob/index.js';
import { TcmuCommand, TcmuNetlink, type TcmuEvent } from '../../native/index.js';
import type { BlockDevice } from '../block-device.js';
import type { AttachRequest, Attachment, FrontEnd } from '../front-end.js';
import type { IoGuard } from '../io-guard.js';
import type { ServedQueue } from '../io-workers.js';
import { assertUnused, createTcmuDevice, findLun, removeTcmuDevice } from './configfs.js';
import { TcmuDevice, type TcmuContext } from './device.js';
import { blockDevice, blockNetlink, listUioDevices, resetNetlink, resetRing } from './kernel.js';
import { parseUioName, tcmuNames, type UioName } from './names.js';

const OK = 0;
/** What every failed open is reported as; the reason goes to log and result file. */
const ENOENT = -2;
const ENODEV = -19;
const EOPNOTSUPP = -95;
/** How long another handler has for its own devices. */
const OTHERS_DEADLINE_MS = 5000;
/** How long commands in flight may hold up the end of the service. */
const LEAVE_DEADLINE_MS = 5000;

/** A device of the kernel, made by us or by anybody. */
export class TcmuAttachment implements Attachment {
  readonly transport = 'tcmu';
  readonly id: string;
  readonly configPath: string;
  readonly deviceId: string | undefined;
  readonly device: BlockDevice;
  readonly served: ServedQueue | undefined;
  readonly #source: TcmuDevice;
  readonly #detach: () => Promise<void>;
  #detached: Promise<void> | undefined;

  constructor(device: TcmuDevice, image: BlockDevice, detach: () => Promise<void>) {
    this.id = device.id;
    this.configPath = device.configPath;
    this.deviceId = device.name.deviceId;
    this.device = image;
    this.served = device.served;
    this.#source = device;
    this.#detach = detach;
  }

  /** As of the last {@link TcmuFrontEnd.locate}: whoever made the device gives it its LUN after it is ours. */
  get devicePath(): string | undefined {
    return this.#source.devicePath;
  }

  get guard(): IoGuard | undefined {
    return this.served?.guard;
  }

  detach(): Promise<void> {
    this.#detached ??= this.#detach().catch((error: unknown) => {
      this.#detached = undefined;
      throw error;
    });
    return this.#detached;
  }
}

/** The TCMU front end. Needs root and {@link tcmuAvailable}. */
export class TcmuFrontEnd implements FrontEnd {
  readonly transport = 'tcmu';
  readonly #context: TcmuContext;
  readonly #netlink: TcmuNetlink;
  readonly #devices = new Map<number, TcmuDevice>(); // by minor
  readonly #events = new Set<Promise<void>>();
  readonly #closing = new AbortController();
  #closed: Promise<void> | undefined;
  #locating: Promise<void> | undefined;

  constructor(context: TcmuContext) {
    this.#context = context;
    this.#netlink = new TcmuNetlink((event) => {
      const work = this.#handle(event).finally(() => this.#events.delete(work));
      this.#events.add(work);
    });
  }

  async start(): Promise<void> {
    const { logger } = this.#context;
    const canBlock = await blockNetlink(true);
    try {
      if (canBlock) await resetNetlink();
      this.#netlink.open();
      const adopted = await this.#claimAll();
      logger.info({ devices: adopted.length }, 'tcmu is ready');
    } finally {
      if (canBlock) await blockNetlink(false);
    }
  }

  async attach(request: AttachRequest): Promise<Attachment> {
    const { id, configPath, tenant, withDeviceId } = request;
    const names = tcmuNames(id, configPath, tenant, withDeviceId);
    const devicePath = await createTcmuDevice(names, configPath);
    const found = this.#find(names.hba, names.device);
    if (found === undefined) {
      await removeTcmuDevice(names);
      throw new DeviceError(
        'OBD_DEVICE_KERNEL',
        `Cannot attach "${configPath}": another process serves the device`,
      );
    }
    found.devicePath = devicePath;
    return this.#attachment(found, found.device);
  }

  attachments(): readonly TcmuAttachment[] {
    return [...this.#devices.values()].flatMap((d) =>
      d.device === undefined ? [] : [this.#attachment(d, d.device)],
    );
  }

  /** One look at a time: while the kernel takes a LUN away, looking there waits. */
  locate(): Promise<void> {
    this.#locating ??= (async () => {
      for (const d of this.#devices.values())
        d.devicePath = (await findLun(d.name.hba, d.name.device))?.devicePath;
    })().finally(() => (this.#locating = undefined));
    return this.#locating;
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.#closing.abort();
      // Whoever is enabling a device now waits for our reply.
      await Promise.race([Promise.all(this.#events), sleep(LEAVE_DEADLINE_MS, undefined, { ref: false })]);
      this.#netlink.close();
      await Promise.all(
        [...this.#devices.values()].map(async (d) => {
          const { hba, device } = d.name;
          await blockDevice(hba, device, true);
          await d.leave(LEAVE_DEADLINE_MS);
          await blockDevice(hba, device, false);
        }),
      );
      this.#devices.clear();
    })();
    return this.#closed;
  }

  #find(hba: number, device: string): (TcmuDevice & { device: BlockDevice }) | undefined {
    for (const d of this.#devices.values())
      if (d.name.hba === hba && d.name.device === device && d.device !== undefined)
        return d as TcmuDevice & { device: BlockDevice }; // as just checked
    return undefined;
  }

  #attachment(device: TcmuDevice, image: BlockDevice): TcmuAttachment {
    return new TcmuAttachment(device, image, () => this.#detach(device));
  }

  async #detach(device: TcmuDevice): Promise<void> {
    const { hba, device: backstore } = device.name;
    const lun = await findLun(hba, backstore);
    if (lun?.devicePath !== undefined) await assertUnused(lun.devicePath);
    // The kernel waits for the commands in flight, and these may wait for longer.
    if (device.served !== undefined && device.served.guard.health.state !== 'ready')
      device.served.guard.abort();
    await removeTcmuDevice({ hba, device: backstore, naa: lun?.naa });
  }

  /** Takes over every ring there is; the images behind them open while netlink is already free again. */
  async #claimAll(): Promise<TcmuDevice[]> {
    const { logger } = this.#context;
    const claimed = await Promise.all(
      (await listUioDevices()).map(async ({ minor, name }) => {
        const parsed = parseUioName(name);
        if (parsed?.configPath === undefined) return [];
        const { hba, device } = parsed;
        const d = new TcmuDevice(this.#context, parsed, parsed.configPath, minor);
        this.#devices.set(minor, d);
        try {
          await blockDevice(hba, device, true);
          await resetRing(hba, device);
        } catch (error) {
          logger.warn({ err: error, device }, 'cannot reset the ring of a device left behind');
        }
        await blockDevice(hba, device, false);
        return [d];
      }),
    );
    for (const d of claimed.flat()) void d.openInTheEnd();
    return claimed.flat();
  }

  async #handle(event: TcmuEvent): Promise<void> {
    const { logger } = this.#context;
    let status = OK;
    try {
      const name = parseUioName(event.name);
      if (name?.configPath === undefined) {
        const waited = sleep(OTHERS_DEADLINE_MS, true, { ref: false, signal: this.#closing.signal });
        if (!(await waited.catch(() => false))) return; // theirs, or our successor's
      }
      logger.debug({ command: event.command, name: event.name, minor: event.minor }, 'netlink event');
      if (event.command === TcmuCommand.ADDED) await this.#added(event, name);
      else if (event.command === TcmuCommand.REMOVED) await this.#removed(event);
      else status = this.#devices.has(event.minor) ? EOPNOTSUPP : ENODEV;
    } catch (error) {
      logger.error({ err: error, name: event.name }, 'cannot open the device');
      status = event.command === TcmuCommand.REMOVED ? OK : ENOENT;
    }
    try {
      this.#netlink.reply(event, status);
    } catch (error) {
      logger.error(
        { err: error, name: event.name },
        'cannot reply to the kernel, which waits until the next start',
      );
    }
  }

  async #added(event: TcmuEvent, name: UioName | undefined): Promise<void> {
    if (name?.configPath === undefined)
      throw new DeviceError(
        'OBD_DEVICE_UNSUPPORTED',
        `Device "${event.name}" is for another handler than overlaybd`,
      );
    const { deviceId } = name;
    if (deviceId !== undefined)
      for (const other of this.#devices.values())
        if (other.name.deviceId === deviceId)
          throw new DeviceError(
            'OBD_DEVICE_EXISTS',
            `Cannot open "${name.configPath}": device id "${deviceId}" is that of "${other.configPath}"`,
            { source: name.configPath },
          );
    // The kernel gives a number again only after the device is gone: its removal was not heard.
    await this.#devices.get(event.minor)?.close();
    const device = new TcmuDevice(this.#context, name, name.configPath, event.minor);
    this.#devices.set(event.minor, device);
    try {
      await device.open();
    } catch (error) {
      this.#devices.delete(event.minor);
      throw error;
    }
  }

  async #removed(event: TcmuEvent): Promise<void> {
    const device = this.#devices.get(event.minor);
    if (device === undefined) return;
    this.#devices.delete(event.minor);
    await device.close();
    this.#context.logger.info({ device: device.name.device }, 'the device is gone');
  }
}
