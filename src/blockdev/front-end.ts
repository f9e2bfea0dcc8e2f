import type { BlockDevice } from './block-device.js';
import type { IoGuard } from './io-guard.js';
import type { ServedQueue } from './io-workers.js';

/** Ways a device reaches its user. `memory` is for tests and benchmarks. */
export type Transport = 'tcmu' | 'fuse' | 'nbd' | 'memory';

/**
 * Opens the image that a config file describes. Given to every front end, so that none of them ever sees a format.
 * The device belongs to the caller, who closes it. Calls overlap.
 */
export type ImageOpener = (configPath: string) => Promise<BlockDevice>;

/** What to attach, and under which name. */
export interface AttachRequest {
  /** Absolute path of the image config (`config.v1.json`); what {@link ImageOpener} is given. */
  readonly configPath: string;
  /** Names the device among those of its front end: 1-13 of `[0-9A-Za-z_-]` (13 is what a `naa` name has room for). */
  readonly id: string;
  /** Tenant of multi-tenant hosts, as in overlaybd-snapshotter's configuration; absent or -1 for none. */
  readonly tenant?: number;
  /** Also tell the image its id, for the live-snapshot API. */
  readonly withDeviceId?: boolean;
}

/** One device in use. */
export interface Attachment {
  readonly id: string;
  readonly transport: Transport;
  readonly configPath: string;
  /** What whoever made it through the kernel named it for the live-snapshot API (`;ID` in configfs). */
  readonly deviceId?: string | undefined;
  /** Block device or file that a user opens; undefined while it is not known (TCMU: another program makes the LUN). */
  readonly devicePath: string | undefined;
  /** Clients that have it open now, where the front end knows: NBD. */
  readonly connections?: number | undefined;
  /** The device being served, for its state and counters. */
  readonly device: BlockDevice;
  /** Its traffic and health; undefined where the transport does not count. */
  readonly served?: Pick<ServedQueue, 'counters' | 'meter'> | undefined;
  /** Its failure policy at work. */
  readonly guard: IoGuard | undefined;
  /**
   * Takes the device away, waits for its commands in flight and closes its image. Idempotent.
   * @throws DeviceError OBD_DEVICE_BUSY if it is still in use (mounted); it is then still attached.
   */
  detach(): Promise<void>;
}

/** A way to show block devices to this machine. Made with an {@link ImageOpener} and the process's `IoWorkers`. */
export interface FrontEnd {
  readonly transport: Transport;
  /** Gets ready, and takes over what an earlier process left behind where the transport allows it. */
  start(): Promise<void>;
  /**
   * Opens the image and makes a device of it; settles when the device can be opened.
   * @throws DeviceError OBD_DEVICE_EXISTS if the id is taken, OBD_DEVICE_KERNEL if the kernel refuses; the image's own
   * error if it does not open. Nothing is left behind then.
   */
  attach(request: AttachRequest): Promise<Attachment>;
  /** Everything attached now. */
  attachments(): readonly Attachment[];
  /**
   * Looks where the devices are that other programs give their paths, so that `devicePath` says it. Absent where this is
   * known at once. Never rejects; may wait as long as the kernel takes a device away.
   */
  locate?(): Promise<void>;
  /**
   * Ends service. TCMU devices stay in the kernel and their I/O waits for the next process; others are detached.
   * Idempotent.
   */
  close(): Promise<void>;
}

/** The rule for {@link AttachRequest.id}. */
export const DEVICE_ID = /^[0-9A-Za-z_-]{1,13}$/;
