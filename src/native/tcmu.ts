import { addon } from './addon.js';
import { systemError } from './system-error.js';

/** The compiled class; see native/bind_tcmu.cc. Numbers below 0 are negative errno. */
export interface NativeTcmuNetlink {
  open(): number;
  reply(command: number, deviceId: number, status: number): number;
  close(): void;
}

/** What the kernel announces: linux/target_core_user.h, enum tcmu_genl_cmd. */
export const TcmuCommand = { ADDED: 1, REMOVED: 2, RECONFIG: 3 } as const;

/** One announcement. */
export interface TcmuEvent {
  /** One of {@link TcmuCommand}. */
  readonly command: number;
  /** Above 1 the kernel waits until {@link TcmuNetlink.reply}. */
  readonly version: number;
  /** `/dev/uio<minor>`. */
  readonly minor: number;
  /** What a reply names. */
  readonly deviceId: number;
  /** `tcm-user/<hba>/<device>/<config>`. */
  readonly name: string;
}

/** The kernel's announcements of TCMU devices and our replies. Wraps native/netlink.h. */
export class TcmuNetlink {
  readonly #native: NativeTcmuNetlink;

  /** @param onEvent called for each announcement, while open. */
  constructor(onEvent: (event: TcmuEvent) => void) {
    this.#native = new addon.TcmuNetlink((command, version, minor, deviceId, name) => {
      onEvent({ command, version, minor, deviceId, name });
    });
  }

  /**
   * Connects, and tells the kernel that we reply: until its module is unloaded it then waits for replies.
   * @throws a system error; ENOENT if target_core_user is not loaded, EPERM without CAP_NET_ADMIN.
   */
  open(): void {
    const error = this.#native.open();
    if (error < 0) throw systemError(error, 'netlink TCM-USER');
  }

  /** Ends the kernel's wait for an event: 0 or a negative errno. @throws a system error. */
  reply(event: TcmuEvent, status: number): void {
    if (event.version <= 1) return;
    const error = this.#native.reply(event.command, event.deviceId, status);
    if (error < 0) throw systemError(error, 'netlink reply');
  }

  /** Idempotent. */
  close(): void {
    this.#native.close();
  }
}

/** What a TCMU device says about itself. */
export interface TcmuQueueOptions {
  /** Bytes of shared memory: `maps/map0/size` of the UIO device. */
  readonly mapSize: number;
  /** Bytes of the image. */
  readonly size: number;
  readonly readOnly: boolean;
  /** The device's configuration, for VPD page 83. */
  readonly config: string;
  /** File that holds its unit serial. */
  readonly serialPath: string;
}

/**
 * Opens and maps a TCMU device; the handle is for an I/O loop. Wraps tcmu_queue_open.
 * @throws a system error; EBUSY if another process serves the device, EPROTO if it is no ring of version 2.
 */
export function openTcmuQueue(path: string, options: TcmuQueueOptions): number {
  const { mapSize, size, readOnly, config, serialPath } = options;
  const handle = addon.tcmuOpen(path, mapSize, size, readOnly, config, serialPath);
  if (handle < 0) throw systemError(handle, `open "${path}"`);
  return handle;
}

/** How the SCSI decoder sees a device. */
export interface ScsiDevice {
  readonly blocks: number;
  readonly readOnly: boolean;
  readonly config: string;
  /** Absent: it cannot be read. */
  readonly serial?: string;
}

/** A decoded command: a byte range (`op` not 0) or an answer. */
export interface ScsiResult {
  readonly op: number;
  readonly offset: number;
  readonly length: number;
  readonly status: number;
  readonly sense: Buffer;
  readonly data: Buffer;
}

/** Decodes one SCSI command, for tests. Wraps scsi_decode. */
export function decodeScsi(device: ScsiDevice, cdb: Buffer, data: Buffer, capacity: number): ScsiResult {
  return addon.scsiDecode(device, cdb, data, capacity);
}
