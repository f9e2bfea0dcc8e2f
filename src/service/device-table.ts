/**
 * All devices of this service, whatever front end shows them and whoever asked for them.
 *
 * An entry is put together when somebody looks: front ends know what is attached, {@link Openings} knows what is being
 * opened or failed to, and this table adds only what neither has: requests of the admin API that are under way.
 *
 *   attach() -> opening -> ready -> detaching -> (no entry)
 *                  \-> failed -> dismissed by detach(), or by the next attempt with this id
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { DeviceError } from '../blob/index.js';
import { DEVICE_ID, imageOf, type Attachment, type FrontEnd, type Transport } from '../blockdev/index.js';
import type { Logger } from '../log/index.js';
import { activityOf, type DeviceActivity } from './activity.js';
import {
  type AbortAnswer,
  type DeviceInfo,
  type SnapshotInfo,
  type TrafficAnswer,
  type TransportChoice,
} from './api.js';
import { ofAttachment, ofOpening, ofPending, type Pending } from './device-rows.js';
import { configName, imageName } from './device-names.js';
import { takeDeviceSnapshot } from './device-snapshot.js';
import type { MeteredDevice } from './device-totals.js';
import type { Openings } from './openings.js';

/** What the table is made of. */
export interface DeviceTableOptions {
  /** In order of preference for `auto`. */
  readonly frontEnds: readonly FrontEnd[];
  readonly openings: Openings;
  /** Why a transport that is not among the front ends is missing, for the error message. */
  readonly unsupported: ReadonlyMap<Transport, string>;
  readonly log: Logger;
}

/** What to attach. */
export interface TableRequest {
  /** The image's configuration, or how to make it once the device has its name. */
  readonly config: string | ((id: string) => Promise<string>);
  readonly id?: string | undefined;
  readonly transport?: TransportChoice | undefined;
  /** How the user named the image, for lists. */
  readonly image?: string | undefined;
  /** Made by an earlier service: the device may not be attached (again) yet. */
  readonly adopted?: boolean;
  /** Runs after the device is gone, or did not come to be. */
  readonly release?: ((id: string) => Promise<void>) | undefined;
}

/** How long a list waits for paths: the kernel holds them while it takes a device away. */
const LOCATE_DEADLINE_MS = 1000;

/** Requests that failed and that nobody dismissed; the oldest goes first. */
const MAX_FAILED = 64;
/** Everything a TCMU host bus adapter and a process's descriptors allow is far above; a bound against runaways. */
const MAX_DEVICES = 1000;

/** See the head of this file. */
export class DeviceTable {
  readonly #options: DeviceTableOptions;
  readonly #pending = new Map<string, Pending>();
  /** What is known only here of what is attached, by id. */
  readonly #requests = new Map<string, TableRequest>();
  readonly #detaching = new Set<string>();
  readonly #releasing = new Set<string>();

  constructor(options: DeviceTableOptions) {
    this.#options = options;
  }

  /**
   * Attaches an image; settles when the device can be opened.
   * @throws DeviceError OBD_DEVICE_EXISTS, OBD_DEVICE_UNSUPPORTED; what the front end and the image throw.
   */
  async attach(request: TableRequest): Promise<DeviceInfo> {
    void this.releaseGone(); // never rejects
    const frontEnd = this.#choose(request.transport ?? 'auto');
    const id = request.id ?? this.#freeId(request);
    if (!DEVICE_ID.test(id)) throw new TypeError(`"${id}" is no device id`);
    if (this.#taken(id))
      throw new DeviceError('OBD_DEVICE_EXISTS', `Cannot attach "${id}": there is a device of this name`, {
        hint: `Detach it (obd detach ${id}) or choose another name`,
      });
    if (this.#attachments().length + this.#pending.size >= MAX_DEVICES)
      throw new DeviceError('OBD_DEVICE_BUSY', `Cannot attach "${id}": there are ${MAX_DEVICES} devices`);
    const pending: Pending = {
      request,
      transport: frontEnd.transport,
      since: new Date(),
      configPath: typeof request.config === 'string' ? request.config : '',
      failed: undefined,
    };
    this.#pending.set(id, pending);
    try {
      if (typeof request.config !== 'string') pending.configPath = await request.config(id);
      const { configPath } = pending;
      const attachment = await frontEnd.attach({ configPath, id });
      this.#pending.delete(id);
      this.#requests.set(id, request);
      this.#options.log.info({ dev: id, devicePath: attachment.devicePath }, 'device attached');
      return this.#ofAttachment(attachment);
    } catch (error) {
      pending.failed = { error };
      this.#options.openings.dismiss(pending.configPath);
      this.#boundFailures();
      this.#options.log.error({ dev: id, err: error }, 'device not attached');
      await this.#release(id, request);
      throw error;
    }
  }

  /** Tells what an earlier service knew of a device that the kernel kept. */
  remember(id: string, request: TableRequest): void {
    this.#requests.set(id, { ...request, adopted: true });
  }

  /**
   * Takes a device away, or dismisses a failed one.
   * @param key its id or device path.
   * @returns what it was.
   * @throws DeviceError OBD_DEVICE_NOT_FOUND, OBD_DEVICE_BUSY.
   */
  async detach(key: string): Promise<DeviceInfo> {
    const attachment = this.#find(key);
    if (attachment === undefined) {
      const entry = this.get(key);
      if (entry.state !== 'failed')
        throw new DeviceError('OBD_DEVICE_BUSY', `Cannot detach "${key}": it is being ${entry.state}`, {
          hint: 'Try again when that has ended (obd list)',
        });
      this.#pending.delete(entry.id);
      this.#options.openings.dismiss(entry.configPath);
      return entry;
    }
    const { id } = attachment;
    const before = this.#ofAttachment(attachment);
    this.#detaching.add(id);
    try {
      await attachment.detach();
      this.#options.log.info({ dev: id }, 'device detached');
    } finally {
      this.#detaching.delete(id);
    }
    const request = this.#requests.get(id);
    this.#requests.delete(id);
    if (request !== undefined) await this.#release(id, request);
    return before;
  }

  /**
   * Fails the I/O of a device that waits, with an I/O error, until the device is ready again.
   * @param key its id or device path.
   * @throws DeviceError OBD_DEVICE_NOT_FOUND, OBD_DEVICE_BUSY while there is no device that could have I/O.
   */
  abort(key: string): AbortAnswer {
    const attachment = this.#find(key);
    if (attachment?.guard === undefined)
      throw new DeviceError('OBD_DEVICE_BUSY', `Cannot abort "${key}": it is ${this.get(key).state}`, {
        hint: 'Only a device that is there has I/O (obd list)',
      });
    const aborted = attachment.guard.abort();
    this.#options.log.warn({ dev: attachment.id, aborted }, 'I/O aborted by an operator');
    return { aborted, device: this.#ofAttachment(attachment) };
  }

  /**
   * Takes a live snapshot of a device.
   * @param key its id or device path.
   * @param newConfigPath takes the place of the device's configuration.
   * @throws DeviceError OBD_DEVICE_NOT_FOUND, OBD_DEVICE_UNSUPPORTED, OBD_DEVICE_BUSY; what `HostedImage.snapshot` throws.
   */
  async snapshot(key: string, newConfigPath: string): Promise<SnapshotInfo> {
    const attachment = this.#find(key);
    if (attachment !== undefined) return takeDeviceSnapshot(attachment, newConfigPath, this.#options);
    const { state } = this.get(key);
    throw new DeviceError('OBD_DEVICE_BUSY', `Cannot take a snapshot of "${key}": it is ${state}`, {
      hint: 'A snapshot is taken of a device that is ready (obd list)',
    });
  }

  /** The same by what follows `;` in configfs, or the id of a device that was attached through this service. */
  async snapshotById(deviceId: string, newConfigPath: string): Promise<SnapshotInfo> {
    const all = this.#attachments();
    const found =
      all.find((a) => a.deviceId === deviceId) ??
      all.find((a) => a.id === deviceId && (a.transport !== 'tcmu' || this.#requests.has(a.id)));
    if (found === undefined)
      throw new DeviceError('OBD_DEVICE_NOT_FOUND', `There is no device with dev_id "${deviceId}"`);
    return takeDeviceSnapshot(found, newConfigPath, this.#options);
  }

  /** One device by id or device path. @throws DeviceError OBD_DEVICE_NOT_FOUND */
  get(key: string): DeviceInfo {
    const found = this.list().find((device) => device.id === key || device.devicePath === key);
    if (found === undefined)
      throw new DeviceError('OBD_DEVICE_NOT_FOUND', `There is no device "${key}"`, {
        hint: '"obd list" shows all devices of this service',
      });
    return found;
  }

  /** What happened on a device, by id or device path. @throws DeviceError OBD_DEVICE_NOT_FOUND */
  activity(key: string): DeviceActivity {
    const attachment = this.#find(key);
    if (attachment === undefined) return activityOf(this.get(key), undefined, undefined);
    const { device } = attachment;
    return activityOf(
      this.#ofAttachment(attachment),
      device.reads,
      this.#options.openings.of(imageOf(device))?.image?.fetches,
    );
  }

  /** Looks where devices are that others made; after a second without an answer the last one stands. */
  async locate(): Promise<void> {
    await Promise.race([
      Promise.all(this.#options.frontEnds.map(async (frontEnd) => frontEnd.locate?.())),
      sleep(LOCATE_DEADLINE_MS, undefined, { ref: false }),
    ]);
  }

  /** Everything, oldest first. Paths are those of the last {@link locate}. */
  list(): DeviceInfo[] {
    const { openings } = this.#options;
    const rows = this.#attachments().map((attachment) => this.#ofAttachment(attachment));
    const ours = new Set<string>();
    for (const { configPath, device } of this.#attachments()) if (device.waiting) ours.add(configPath);
    for (const [id, pending] of this.#pending) {
      ours.add(pending.configPath);
      rows.push(ofPending(id, pending));
    }
    // What the kernel asked for on behalf of others has no entry of ours.
    for (const opening of [...openings.running(), ...openings.failed()])
      if (!ours.has(opening.configPath)) rows.push(ofOpening(opening, this.#defaultTransport()));
    return rows.sort((a, b) => (a.since < b.since ? -1 : a.since > b.since ? 1 : 0));
  }

  /** Attached devices that count their commands. */
  metered(): MeteredDevice[] {
    return this.#attachments().flatMap(({ id, transport, served }) =>
      served === undefined ? [] : [{ id, transport, meter: served.meter }],
    );
  }

  /** {@link list}, with each device's meter. */
  traffic(): TrafficAnswer {
    const meters = new Map(this.metered().map(({ id, meter }) => [id, [...meter.words]]));
    return {
      atMs: performance.now(),
      devices: this.list().map((device) => ({ device, meter: meters.get(device.id) ?? [] })),
    };
  }

  /** True if nothing is attached or being attached. */
  get idle(): boolean {
    return this.#attachments().length === 0 && [...this.#pending.values()].every((p) => p.failed);
  }

  #attachments(): Attachment[] {
    return this.#options.frontEnds.flatMap((frontEnd) => frontEnd.attachments());
  }

  #find(key: string): Attachment | undefined {
    const all = this.#attachments();
    return all.find((a) => a.id === key) ?? all.find((a) => a.devicePath === key);
  }

  #defaultTransport(): Transport {
    return this.#options.frontEnds[0]?.transport ?? 'memory';
  }

  #choose(choice: TransportChoice): FrontEnd {
    const { frontEnds, unsupported } = this.#options;
    const found = choice === 'auto' ? frontEnds[0] : frontEnds.find((f) => f.transport === choice);
    if (found !== undefined) return found;
    const reasons = [...unsupported]
      .filter(([transport]) => choice === 'auto' || transport === choice)
      .map(([transport, reason]) => `${transport}: ${reason}`);
    throw new DeviceError(
      'OBD_DEVICE_UNSUPPORTED',
      `Cannot attach through ${choice === 'auto' ? 'any front end' : choice}: ${reasons.join('; ') || 'not available'}`,
      choice === 'auto' ? {} : { hint: 'Let the service choose: --transport auto' },
    );
  }

  #taken(id: string): boolean {
    const pending = this.#pending.get(id);
    if (pending?.failed !== undefined && !this.#releasing.has(id)) this.#pending.delete(id);
    if (this.#pending.has(id) || this.#releasing.has(id)) return true;
    return this.#attachments().some((a) => a.id === id);
  }

  /** A name that tells what it is: of the image's repository, or of the configuration's directory. */
  #freeId(request: TableRequest): string {
    const wanted =
      request.image !== undefined
        ? imageName(request.image)
        : configName(typeof request.config === 'string' ? request.config : '');
    const stem = wanted.replace(/[^0-9A-Za-z_-]+/g, '-').replace(/^-+|-+$/g, '') || 'device';
    const first = stem.slice(0, 13);
    if (!this.#taken(first)) return first;
    for (let n = 2; ; n++) {
      const id = `${stem.slice(0, 12 - String(n).length)}-${n}`;
      if (!this.#taken(id)) return id;
    }
  }

  /** Files of devices that are gone without a detach: through configfs, by an aborted connection, with their front end. */
  async releaseGone(): Promise<void> {
    const here = new Set(this.#attachments().map(({ id }) => id));
    const gone = [...this.#requests].filter(([id, { adopted }]) => !here.has(id) && adopted !== true);
    for (const [id] of gone) this.#requests.delete(id);
    await Promise.all(gone.map(([id, request]) => this.#release(id, request)));
  }

  /** The name stays taken meanwhile: the next device of this name would use the same files. */
  async #release(id: string, request: TableRequest): Promise<void> {
    if (request.release === undefined) return;
    this.#releasing.add(id);
    await request.release(id).catch((error: unknown) => {
      this.#options.log.warn({ dev: id, err: error }, 'files of a device are not removed');
    });
    this.#releasing.delete(id);
  }

  #boundFailures(): void {
    let failed = [...this.#pending.values()].filter((p) => p.failed).length;
    for (const [id, pending] of this.#pending)
      if (failed > MAX_FAILED && pending.failed) {
        this.#pending.delete(id);
        failed--;
      }
  }

  #ofAttachment(attachment: Attachment): DeviceInfo {
    return ofAttachment(attachment, {
      opening: this.#options.openings.of(imageOf(attachment.device)),
      detaching: this.#detaching.has(attachment.id),
      image: this.#requests.get(attachment.id)?.image,
    });
  }
}
