/** Devices of the snapshotter: attached by the service (`obd service`, `overlaybd-tcmu`), mounted here. */
import { setTimeout as sleep } from 'node:timers/promises';
import { DeviceError, OverlaybdError, isSystemError } from '../blob/index.js';
import { nbdSocketOf, nbdUri, readNbdStart } from '../blockdev/index.js';
import type { Logger } from '../log/index.js';
import { remountFilesystem, unmountFilesystem } from '../native/index.js';
import {
  isAttached,
  NoServiceError,
  deviceState,
  listMounts,
  type AdminClient,
  type DeviceInfo,
} from '../service/index.js';
import type { DeviceHost, DeviceTransport, FileSystemSpec } from '../snapshotter/index.js';
import { fileSystemIn, findFileSystem, makeFileSystem, mountDevice } from './file-systems.js';

/** A service that restarts is back within this. */
const SERVICE_MS = 5_000;
/** Somebody else is attaching or detaching the same device: seconds, unless a registry hangs. */
const SETTLE_MS = 60_000;
const POLL_MS = 100;
/** What {@link ServiceDeviceHost} is made of. */
export interface ServiceDeviceHostOptions {
  readonly client: AdminClient;
  readonly log: Logger;
  /** Separates the names of several snapshotters' devices; -1: there is only one. */
  readonly tenant: number;
}

/** A {@link DeviceHost} over the service's admin API. */
export class ServiceDeviceHost implements DeviceHost {
  readonly #options: ServiceDeviceHostOptions;

  constructor(options: ServiceDeviceHostOptions) {
    this.#options = options;
  }

  async attach(id: number, configPath: string, transport: DeviceTransport): Promise<string> {
    const deadline = Date.now() + SETTLE_MS;
    for (;;) {
      const found = bestOf((await this.#find(configPath)).filter((device) => reachedBy(device, transport)));
      if (found !== undefined && isAttached(found.state)) return sourceOf(found, transport);
      if (found === undefined || found.state === 'failed') return this.#attachNew(id, configPath, transport);
      if (Date.now() > deadline)
        throw new DeviceError('OBD_DEVICE_BUSY', `Device "${found.id}" is ${found.state} for too long`, {
          source: configPath,
        });
      await sleep(POLL_MS);
    }
  }

  async #attachNew(id: number, configPath: string, transport: DeviceTransport): Promise<string> {
    const { client, tenant, log } = this.#options;
    const nbd = transport === 'nbd';
    // An image may have a device of each kind.
    const name = tenant === -1 ? `${nbd ? 'nbd' : 'snap'}-${id}` : `${nbd ? 'n' : 't'}${tenant}-${id}`;
    const body = { configPath, transport: nbd ? 'nbd' : 'auto' } as const;
    try {
      return sourceOf(await this.#patiently(() => client.attach({ ...body, id: name })), transport);
    } catch (error) {
      // Not ours: perhaps of a snapshotter with another root. The service then chooses the name.
      if (!(error instanceof OverlaybdError) || error.code !== 'OBD_DEVICE_EXISTS') throw error;
      log.debug({ dev: name }, 'name of a device is taken');
      return sourceOf(await client.attach(body), transport);
    }
  }

  async detach(configPath: string): Promise<void> {
    let found: readonly DeviceInfo[];
    try {
      found = await this.#find(configPath);
    } catch (error) {
      // Without a service there is nothing to detach, or, with TCMU, nobody who could do it now.
      if (error instanceof NoServiceError) return;
      throw error;
    }
    for (const { id, connections = 0, devicePath } of found)
      if (connections > 0)
        throw new DeviceError(
          'OBD_DEVICE_BUSY',
          `Device "${id}" is in use: it has ${connections} NBD clients`,
          {
            ...(devicePath === undefined ? {} : { source: devicePath }),
          },
        );
    for (const { id } of found)
      await this.#options.client.detach(id).catch((error: unknown) => {
        if (!(error instanceof OverlaybdError) || error.code !== 'OBD_DEVICE_NOT_FOUND') throw error;
      });
  }

  async isDead(devicePath: string): Promise<boolean> {
    return (await deviceState(devicePath)) === 'dead';
  }

  async fileSystemOf(devicePath: string): Promise<string | undefined> {
    const socket = nbdSocketOf(devicePath);
    if (socket === undefined) return (await findFileSystem(devicePath)).type;
    return fileSystemIn(await readNbdStart(socket, 4096, SETTLE_MS)).type;
  }

  makeFileSystem(devicePath: string, spec: FileSystemSpec): Promise<void> {
    return makeFileSystem(devicePath, spec);
  }

  mount(devicePath: string, directory: string, spec: FileSystemSpec, writable: boolean): Promise<void> {
    return mountDevice(devicePath, directory, spec, { writable, log: this.#options.log });
  }

  async remount(directory: string, writable: boolean): Promise<void> {
    await notBusy(directory, remountFilesystem(directory, !writable));
  }

  async unmount(directory: string, lazy: boolean): Promise<void> {
    await notBusy(directory, unmountFilesystem(directory, lazy));
  }

  async mountsBelow(directory: string): Promise<{ directory: string; source: string }[]> {
    return (await listMounts()).filter(
      (mount) => mount.directory === directory || mount.directory.startsWith(`${directory}/`),
    );
  }

  async #find(configPath: string): Promise<DeviceInfo[]> {
    const devices = await this.#patiently(() => this.#options.client.list());
    return devices.filter((device) => device.configPath === configPath);
  }

  /** Waits for a service that is just not there. @throws NoServiceError */
  async #patiently<T>(call: () => Promise<T>): Promise<T> {
    const deadline = Date.now() + SERVICE_MS;
    for (;;)
      try {
        return await call();
      } catch (error) {
        const passing =
          error instanceof NoServiceError ||
          (error instanceof OverlaybdError && error.code === 'OBD_ABORTED');
        if (!passing || Date.now() > deadline) throw error;
        await sleep(POLL_MS);
      }
  }
}

async function notBusy(directory: string, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!isSystemError(error) || error.code !== 'EBUSY') throw error;
    throw new DeviceError('OBD_DEVICE_BUSY', `"${directory}" is in use`, { source: directory, cause: error });
  }
}

function bestOf(devices: readonly DeviceInfo[]): DeviceInfo | undefined {
  return devices.find(({ state }) => state !== 'failed') ?? devices[0];
}

function reachedBy(device: DeviceInfo, transport: DeviceTransport): boolean {
  return (device.transport === 'nbd') === (transport === 'nbd');
}

function sourceOf({ id, devicePath, transport }: DeviceInfo, wanted: DeviceTransport): string {
  if (wanted === 'nbd' && transport === 'nbd' && devicePath !== undefined) return nbdUri(devicePath);
  if (devicePath?.startsWith('/dev/') === true) return devicePath;
  throw new DeviceError(
    'OBD_DEVICE_UNSUPPORTED',
    `Device "${id}" is no block device: it is on ${transport}`,
    {
      hint: 'The service needs TCMU, or FUSE and loop devices ("transport" in overlaybd.json)',
    },
  );
}
