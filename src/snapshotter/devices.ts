/**
 * Devices of snapshots: an image layer's, mounted once however many containers use it, and a container's own. There is
 * no record of its own: the mount table says what is mounted, the device host what is attached. So a restart of the
 * snapshotter changes nothing, and after a restart of everything the next use attaches and mounts again.
 *
 *   (nothing) --mounted()--> attached --> mounted --release()--> (nothing)
 *                               \ cannot be mounted: detached again
 *   (nothing) --attached()-> attached --release()--> (nothing)
 */
import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { DeviceError, ioError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { DeviceHost, DeviceTransport } from './device-host.js';
import type { FileSystemSpec } from './file-system-spec.js';
import { KeyedLocks } from './keyed-locks.js';
import type { Layout } from './layout.js';

/** What {@link Devices} is made of. */
export interface DevicesOptions {
  readonly host: DeviceHost;
  readonly layout: Layout;
  readonly log: Logger;
  /** How long a device may take to appear. */
  readonly timeoutMs: number;
}

/** Whose device it is. */
export interface DeviceUse {
  readonly fileSystem: FileSystemSpec;
  /** A container's own: it is written to. Default: an image layer's. */
  readonly own?: boolean;
  /** How it is reached by who mounts it himself. Default: a block device. */
  readonly transport?: DeviceTransport;
  /** It is new, and without a file system. */
  readonly make?: boolean;
}

/** Stacked mounts that are taken off one mountpoint: more is a loop, not a stack. */
const MAX_STACKED = 16;

/** See the head of this file. */
export class Devices {
  readonly #options: DevicesOptions;
  readonly #locks = new KeyedLocks();

  constructor(options: DevicesOptions) {
    this.#options = options;
  }

  /**
   * Makes sure that a snapshot's device is mounted on its mountpoint and alive.
   * @throws what the image or the host says; DeviceError when it takes too long. Nothing is left behind, except that a
   * layer's device which comes too late is there for the next call.
   */
  mounted(id: number, use: DeviceUse): Promise<void> {
    return this.#locks.run(String(id), async () => {
      const { host, layout, log } = this.#options;
      const mountpoint = layout.mountpoint(id);
      const source = await this.#mountedSource(mountpoint);
      if (source !== undefined) {
        if (!(await host.isDead(source))) return;
        log.warn({ snapshot: id, devicePath: source }, 'device lost its service; attaching it again');
        await this.#unmountAll(mountpoint, true);
      }
      await this.#attached(id, use, 'mount', async (devicePath) => {
        await host.mount(devicePath, mountpoint, use.fileSystem, use.own === true);
        log.info({ snapshot: id, devicePath }, 'device is mounted');
      });
    });
  }

  /**
   * Makes sure that a snapshot's device is there, for who mounts it himself.
   * @returns its path or URI, and what is on it. @throws as {@link mounted}.
   */
  attached(id: number, use: DeviceUse): Promise<{ devicePath: string; type: string }> {
    return this.#locks.run(String(id), () =>
      this.#attached(id, use, 'use', async (devicePath) => ({
        devicePath,
        type: (await this.#options.host.fileSystemOf(devicePath)) ?? use.fileSystem.type,
      })),
    );
  }

  /** @param then when it fails, the device goes again. */
  async #attached<T>(
    id: number,
    use: DeviceUse,
    action: string,
    then: (devicePath: string) => Promise<T>,
  ): Promise<T> {
    const { host, layout, log } = this.#options;
    const { transport = 'block' } = use;
    const devicePath = await this.#attach(id, use.own === true, transport);
    try {
      await writeFile(layout.mark(id), devicePath, { mode: 0o600 });
      if (use.make === true && transport === 'nbd')
        throw new DeviceError(
          'OBD_DEVICE_UNSUPPORTED',
          `Cannot make ${use.fileSystem.type} on a disk that is served over NBD: mkfs needs a block device`,
          { source: devicePath, hint: 'Take ext4, or a block device' },
        );
      if (use.make === true) await host.makeFileSystem(devicePath, use.fileSystem);
      return await then(devicePath);
    } catch (error) {
      await host.detach(layout.config(id)).catch((second: unknown) => {
        log.warn({ snapshot: id, devicePath, err: second }, 'device stays though it is of no use');
      });
      throw ioError(error, `${action} the device of snapshot ${id}`, devicePath);
    }
  }

  /**
   * Unmounts and detaches a snapshot's device, if it has one.
   * @param used asked when nobody else is busy with it: then it stays.
   * @throws if it is in use.
   */
  release(id: number, used = (): boolean => false): Promise<void> {
    return this.#locks.run(String(id), async () => {
      const { host, layout, log } = this.#options;
      if (used() || !existsSync(layout.block(id))) return;
      const mountpoint = layout.mountpoint(id);
      const source = await this.#mountedSource(mountpoint);
      await this.#unmountAll(mountpoint, source !== undefined && (await host.isDead(source)));
      // A device is made only of a snapshot that has a configuration.
      if (existsSync(layout.config(id))) await host.detach(layout.config(id));
      await rm(layout.mark(id), { force: true });
      if (source !== undefined) log.info({ snapshot: id, devicePath: source }, 'device is released');
    });
  }

  /**
   * Makes the file system on a device that cannot be released read-only, for all who have it mounted, and writes all of
   * it to the device. It is mounted on the snapshot's mountpoint then.
   * @throws DeviceError OBD_DEVICE_BUSY if somebody writes to it.
   */
  freeze(id: number, { fileSystem }: DeviceUse): Promise<void> {
    return this.#locks.run(String(id), async () => {
      const { host, layout } = this.#options;
      const mountpoint = layout.mountpoint(id);
      if ((await this.#mountedSource(mountpoint)) === undefined) {
        const devicePath = await host.attach(id, layout.config(id), 'block');
        await host.mount(devicePath, mountpoint, fileSystem, true);
      }
      await host.remount(mountpoint, false);
    });
  }

  /** Takes back {@link freeze}. */
  thaw(id: number): Promise<void> {
    return this.#locks.run(String(id), () =>
      this.#options.host.remount(this.#options.layout.mountpoint(id), true),
    );
  }

  async #attach(id: number, own: boolean, transport: DeviceTransport): Promise<string> {
    const { host, layout, log, timeoutMs } = this.#options;
    const config = layout.config(id);
    const attaching = host.attach(id, config, transport);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(resolve, timeoutMs, 'late');
    });
    try {
      const result = await Promise.race([attaching, late]);
      if (result !== 'late') return result;
    } finally {
      clearTimeout(timer);
    }
    attaching
      // Nobody will come back for a container's own.
      .then(() => (own ? host.detach(config) : undefined))
      .catch((error: unknown) => {
        log.warn({ snapshot: id, err: error }, 'device failed after its deadline');
      });
    const reason = (await readFile(layout.result(id), 'utf8').catch(() => '')).trim();
    throw new DeviceError(
      'OBD_DEVICE_BUSY',
      `The device of snapshot ${id} is not ready within ${timeoutMs / 1000} s` +
        (reason.startsWith('failed') ? `: ${reason}` : ''),
      { source: config, hint: '"obd list" shows what it waits for; "attachTimeout" sets the limit' },
    );
  }

  async #mountedSource(mountpoint: string): Promise<string | undefined> {
    const mounts = await this.#options.host.mountsBelow(mountpoint);
    return mounts.findLast(({ directory }) => directory === mountpoint)?.source;
  }

  async #unmountAll(mountpoint: string, lazy: boolean): Promise<void> {
    for (let n = 0; (await this.#mountedSource(mountpoint)) !== undefined; n++) {
      if (n === MAX_STACKED)
        throw new DeviceError('OBD_DEVICE_BUSY', `Cannot unmount "${mountpoint}": it stays mounted`, {
          source: mountpoint,
        });
      try {
        await this.#options.host.unmount(mountpoint, lazy);
      } catch (error) {
        throw ioError(error, `unmount "${mountpoint}"`, mountpoint);
      }
    }
  }
}
