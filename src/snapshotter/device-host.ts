import type { FileSystemSpec } from './file-system-spec.js';

/**
 * How whoever uses a device reaches it: `block` is a block device of the host; `nbd` is a Unix socket, named by its URI, for a
 * virtual machine that brings its own NBD client (ADR 0043).
 */
export type DeviceTransport = 'block' | 'nbd';

/** How the snapshotter reaches devices, mounts and the mount table; wired where the program starts. Calls may overlap. */
export interface DeviceHost {
  /**
   * Makes a device of an image configuration and waits until it can be opened; one that exists already is as good.
   * @returns its path, or its URI.
   * @throws with the reason that the image gives, when it cannot be opened.
   */
  attach(id: number, configPath: string, transport: DeviceTransport): Promise<string>;
  /** Takes the devices of a configuration away, if there are any. @throws DeviceError OBD_DEVICE_BUSY if one is in use. */
  detach(configPath: string): Promise<void>;
  /** Whether whoever served this device is gone for good: nothing but errors comes from it. */
  isDead(devicePath: string): Promise<boolean>;
  /** What a device holds, by its magic; undefined for what has none that is known. */
  fileSystemOf(devicePath: string): Promise<string | undefined>;
  /** Makes an empty file system on a device that reads as zeroes. */
  makeFileSystem(devicePath: string, spec: FileSystemSpec): Promise<void>;
  /**
   * Mounts a device. The type is what the image says; the device may know better. A writable one is repaired first, if
   * it was not unmounted cleanly.
   */
  mount(devicePath: string, directory: string, spec: FileSystemSpec, writable: boolean): Promise<void>;
  /**
   * Makes a mounted file system read-only, or writable again, for all who have it mounted.
   * @throws DeviceError OBD_DEVICE_BUSY if somebody writes to it.
   */
  remount(directory: string, writable: boolean): Promise<void>;
  /** Unmounts what one sees at a directory; `lazy`: even when it is in use. */
  unmount(directory: string, lazy: boolean): Promise<void>;
  /** Mounts at or below a directory: where, and of what. The last at a place is what one sees there. */
  mountsBelow(directory: string): Promise<readonly { readonly directory: string; readonly source: string }[]>;
}

/** A host without devices: only ordinary layers work. */
export const noDevices: DeviceHost = {
  attach: () => Promise.reject(new Error('this snapshotter was started without devices')),
  detach: () => Promise.resolve(),
  isDead: () => Promise.resolve(false),
  fileSystemOf: () => Promise.resolve(undefined),
  makeFileSystem: () => Promise.reject(new Error('this snapshotter was started without devices')),
  mount: () => Promise.reject(new Error('this snapshotter was started without devices')),
  remount: () => Promise.resolve(),
  unmount: () => Promise.resolve(),
  mountsBelow: () => Promise.resolve([]),
};
