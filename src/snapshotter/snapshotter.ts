/**
 * Snapshots as containerd wants them. The store (metadata-store.ts) says what exists; this makes the directories before
 * the store knows a snapshot, and removes them after the store has forgotten it. What takes long happens outside the
 * store's transactions, so nobody waits for another's disk or registry.
 *
 * A layer in overlaybd format is one with an image configuration (layer-config.ts). What a container stands on:
 *
 *   container -> ordinary layer -> ... -> overlaybd layer -> (its ancestors are in its device)
 *     upper         fs                      device, mounted on its block/mountpoint
 *
 * or, directly on an overlaybd layer, a device of its own (writable-layers.ts).
 */
import { existsSync } from 'node:fs';
import { OverlaybdError, SnapshotError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { SnapshotterConfig } from './config.js';
import { noDevices, type DeviceHost } from './device-host.js';
import { Devices } from './devices.js';
import { diskUsage } from './disk-usage.js';
import { parseFilters } from './filters.js';
import { KeyedLocks } from './keyed-locks.js';
import { Label } from './labels.js';
import { LayerConfigs, layerKind } from './layer-config.js';
import { noLayerTools, type LayerTools } from './layer-tools.js';
import { openLayout, type Layout } from './layout.js';
import { MetadataStore } from './metadata-store.js';
import { MountPoints, deviceTransport } from './mount-points.js';
import type { Mount } from './mounts.js';
import type { DiskUsage, Labels, SnapshotRecord } from './records.js';
import { SnapshotCreation } from './snapshot-creation.js';
import { SnapshotDirs } from './snapshot-dirs.js';
import { SpaceLimits, type LimitSpace } from './space-limits.js';
import { WritableLayers } from './writable-layers.js';

/** What a snapshotter is made of. */
export interface SnapshotterOptions {
  readonly config: SnapshotterConfig;
  readonly log: Logger;
  /** Without one, images in overlaybd format do not run. */
  readonly host?: DeviceHost;
  /** Without them, containers have no devices of their own. */
  readonly tools?: LayerTools;
  /** Without it, containers may write as much as there is room for. */
  readonly limitSpace?: LimitSpace;
}

/** The kernel's overlayfs knows "index". */
const OVERLAY_INDEX = '/sys/module/overlay/parameters/index';

/** See the head of this file. Calls may overlap. */
export class Snapshotter {
  readonly #options: SnapshotterOptions;
  readonly #layout: Layout;
  readonly #store: MetadataStore;
  readonly #dirs: SnapshotDirs;
  readonly #host: DeviceHost;
  readonly #devices: Devices;
  readonly #configs: LayerConfigs;
  readonly #writable: WritableLayers;
  readonly #mountPoints: MountPoints;
  readonly #limits: SpaceLimits;
  readonly #creation: SnapshotCreation;
  /** By key: commit and remove of one snapshot do not overlap. */
  readonly #locks = new KeyedLocks();

  private constructor(options: SnapshotterOptions, layout: Layout, store: MetadataStore, dirs: SnapshotDirs) {
    this.#options = options;
    this.#layout = layout;
    this.#store = store;
    this.#dirs = dirs;
    const { config, log, host = noDevices, tools = noLayerTools } = options;
    this.#host = host;
    this.#devices = new Devices({ host, layout, log, timeoutMs: config.attachTimeout * 1000 });
    this.#configs = new LayerConfigs({
      layout,
      log,
      mirrors: config.mirrorRegistry,
      turboFsTypes: config.turboFsType,
    });
    this.#writable = new WritableLayers({
      layout,
      configs: this.#configs,
      tools,
      sparse: config.writableLayerType === 'sparse',
    });
    const { rootfsQuota, tenant } = config;
    const { limitSpace: limit = () => Promise.resolve() } = options;
    this.#limits = new SpaceLimits({ layout, log, limit, rootfsQuota, tenant });
    this.#mountPoints = new MountPoints({
      config,
      log,
      layout,
      store,
      context: { layout, indexOff: existsSync(OVERLAY_INDEX) },
      configs: this.#configs,
      devices: this.#devices,
      writable: this.#writable,
    });
    this.#creation = new SnapshotCreation({
      config,
      log,
      layout,
      store,
      dirs,
      host,
      devices: this.#devices,
      configs: this.#configs,
      writable: this.#writable,
      mountPoints: this.#mountPoints,
      limits: this.#limits,
      remove: (key) => this.remove(key),
    });
  }

  /** Opens a root directory, or makes it. The caller holds its lock. @throws IoError, SnapshotError */
  static async open(options: SnapshotterOptions): Promise<Snapshotter> {
    const layout = await openLayout(options.config.root);
    const dirs = new SnapshotDirs(layout);
    const greatest = await dirs.open();
    const store = MetadataStore.open(layout.root);
    store.reserveId(greatest);
    if (store.takenOver > 0)
      options.log.info(
        { snapshots: store.takenOver },
        "snapshots of the reference's metadata.db are taken over",
      );
    return new Snapshotter(options, layout, store, dirs);
  }

  /** @throws SnapshotError OBD_SNAPSHOT_NOT_FOUND */
  stat(key: string): SnapshotRecord {
    return this.#store.get(key);
  }

  /** See MetadataStore.update. */
  update(name: string, labels: Labels, paths: readonly string[]): SnapshotRecord {
    return this.#store.update(name, labels, paths);
  }

  /** Snapshots that pass one of the filters, or all. @throws SnapshotError OBD_SNAPSHOT_INVALID */
  list(filters: readonly string[]): SnapshotRecord[] {
    return this.#store.all().filter(parseFilters(filters));
  }

  /** What a snapshot takes on disk, without its ancestors. @throws SnapshotError, IoError */
  async usage(key: string): Promise<DiskUsage> {
    const record = this.#store.get(key);
    const overlaybd = this.#configs.has(record.id);
    if (!overlaybd && record.usage !== undefined) return record.usage;
    const fs = await diskUsage(this.#layout.fs(record.id));
    if (!overlaybd) return fs;
    // Blobs are downloaded after the commit.
    const block = await diskUsage(this.#layout.block(record.id), this.#layout.mountpoint(record.id));
    return { size: fs.size + block.size, inodes: fs.inodes + block.inodes };
  }

  /**
   * Makes a snapshot to write to.
   * @param gone whether nobody will hear the answer any more: then nothing may be made, as nobody would remove it.
   * @throws SnapshotError, IoError
   */
  prepare(key: string, parent: string, labels: Labels, gone = noneGone): Promise<Mount[]> {
    return this.#creation.create('active', { key, parent, labels, gone });
  }

  /** Makes a snapshot to look at. See {@link prepare}. @throws SnapshotError, IoError */
  view(key: string, parent: string, labels: Labels, gone = noneGone): Promise<Mount[]> {
    return this.#creation.create('view', { key, parent, labels, gone });
  }

  /** What to mount for an active snapshot or a view. @throws SnapshotError */
  async mounts(key: string): Promise<Mount[]> {
    const record = this.#active(key);
    if (!this.#mountPoints.hasOwnDevice(record)) return this.#mountPoints.open(record);
    // Not while it is being committed.
    return this.#locks.run(key, async () => this.#mountPoints.open(this.#active(key)));
  }

  /** Makes a layer of an active snapshot. @throws SnapshotError, IoError */
  commit(name: string, key: string, labels: Labels, parent = ''): Promise<void> {
    return this.#locks.run(key, async () => {
      const active = this.#store.assertCommittable(name, key, parent);
      if (await this.#writable.has(active)) {
        await this.#commitWritable(active, name, labels, parent);
        return;
      }
      const { id } = active;
      const written = await this.#writeUnpacked(active, active.parent === '' ? parent : active.parent);
      try {
        const usage = await diskUsage(this.#layout.fs(id));
        this.#store.commit(name, key, { ...labels, ...written }, usage, parent);
      } catch (error) {
        if (written !== undefined) await this.#configs.withdraw(id);
        throw error;
      }
    });
  }

  /** Removes a snapshot that has no children. @throws SnapshotError */
  remove(key: string): Promise<void> {
    return this.#locks.run(key, async () => {
      const { asyncRemove, autoRemoveDev } = this.#options.config;
      const device = this.#mountPoints.imageDeviceOf(this.#store.get(key));
      const { id, kind, labels } = this.#store.remove(key);
      await this.#limits.forget(id, labels);
      if (kind !== 'committed' && device !== undefined && autoRemoveDev)
        await this.#mountPoints.releaseUnused(device);
      if (!asyncRemove) await this.#discard(this.#layout.dir(id), id);
    });
  }

  /** Removes the directories that no snapshot has. What fails is logged, and tried again next time. */
  async cleanup(): Promise<void> {
    for (const { path, id } of await this.#dirs.leftovers(() => this.#store.ids()))
      await this.#discard(path, id);
  }

  /** Idempotent. */
  close(): Promise<void> {
    return this.#store.close();
  }

  /** Makes an overlaybd layer of what a client has unpacked, if it is one. @returns labels to add, or undefined. */
  async #writeUnpacked(active: SnapshotRecord, parent: string): Promise<Labels | undefined> {
    const { id, labels } = active;
    if (this.#configs.has(id)) return undefined;
    const parentId = this.#store.find(parent)?.id;
    if (layerKind(labels) === 'turbo') {
      await this.#configs.writeTurbo(id, parentId, labels);
      return {};
    }
    const blob = await this.#configs.blobPath(id);
    if (blob === undefined) return undefined;
    await this.#configs.writeLocal(id, parentId, labels);
    return { [Label.localCommitPath]: blob };
  }

  /** Makes a layer of a container's own device, which nobody may use any more. */
  async #commitWritable(active: SnapshotRecord, name: string, labels: Labels, parent: string): Promise<void> {
    const { id } = active;
    const { log } = this.#options;
    if (parent !== active.parent && parent !== '')
      throw new SnapshotError(
        'OBD_SNAPSHOT_INVALID',
        `Cannot commit "${active.name}" on "${parent}": its device was made without it`,
      );
    const parentId = this.#store.find(active.parent)?.id;
    await this.#writable.restore(active, parentId);
    const pair = await this.#writable.pairOf(active);
    const frozen = await this.#stopWriting(active);
    try {
      const path = await this.#writable.commit(active, parentId, frozen);
      const usage = await diskUsage(this.#layout.fs(id));
      this.#store.commit(name, active.name, { ...labels, [Label.localCommitPath]: path }, usage, parent);
    } catch (error) {
      try {
        await this.#writable.restore(active, parentId);
        if (frozen) await this.#devices.thaw(id);
      } catch (second) {
        log.error(
          { snapshot: id, err: second },
          'snapshot that was not committed is repaired on its next use',
        );
      }
      throw error;
    }
    await this.#writable.finish(id, pair).catch((error: unknown) => {
      log.warn({ snapshot: id, err: error }, 'files of a writable layer stay');
    });
  }

  #active(key: string): SnapshotRecord {
    const record = this.#store.get(key);
    if (record.kind !== 'committed') return record;
    throw new SnapshotError('OBD_SNAPSHOT_PRECONDITION', `Cannot mount "${key}": it is committed`);
  }

  /**
   * Before a container's own device becomes a layer: it is released; or, if somebody has it mounted and does not write to
   * it, it is read-only from now on, and becomes the layer's device.
   * @returns whether it is still there. @throws SnapshotError OBD_SNAPSHOT_PRECONDITION
   */
  async #stopWriting(active: SnapshotRecord): Promise<boolean> {
    const { id, labels, parent, name } = active;
    try {
      await this.#devices.release(id);
      return false;
    } catch (error) {
      const busy = error instanceof OverlaybdError && error.code === 'OBD_DEVICE_BUSY';
      try {
        await this.#mountPoints.open(active);
        // A virtual machine has the file system mounted: nobody here can make it read-only.
        if (!busy || deviceTransport(active) === 'nbd') throw error;
        await this.#devices.freeze(id, { fileSystem: this.#mountPoints.fileSystemOf(labels, parent) });
        return true;
      } catch (second) {
        throw new SnapshotError(
          'OBD_SNAPSHOT_PRECONDITION',
          `Cannot commit "${name}": its device is in use`,
          {
            cause: second,
            hint: 'End its task first',
          },
        );
      }
    }
  }

  /** Removes a directory that no snapshot has, with its device. */
  async #discard(path: string, id: number | undefined): Promise<void> {
    try {
      if (id !== undefined) {
        await this.#devices.release(id);
        await this.#writable.discard(id);
      }
      const [mounted] = await this.#host.mountsBelow(path);
      if (mounted !== undefined)
        throw new SnapshotError('OBD_SNAPSHOT_PRECONDITION', `"${mounted.directory}" is still mounted`);
      await this.#dirs.remove(path);
    } catch (error) {
      this.#options.log.warn(
        { path, err: error, code: error instanceof OverlaybdError ? error.code : undefined },
        'directory of a removed snapshot stays until the next cleanup',
      );
    }
  }
}

const noneGone = (): boolean => false;
