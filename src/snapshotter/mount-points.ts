/**
 * What a snapshot stands on, made ready when somebody wants to mount it: directories of ordinary layers, the device of an
 * image, or a device of its own (snapshotter.ts, writable-layers.ts).
 */
import type { Logger } from '../log/index.js';
import type { SnapshotterConfig } from './config.js';
import type { DeviceTransport } from './device-host.js';
import type { DeviceUse, Devices } from './devices.js';
import { parseFileSystem, type FileSystemSpec } from './file-system-spec.js';
import { Label } from './labels.js';
import type { LayerConfigs } from './layer-config.js';
import type { Layout } from './layout.js';
import type { MetadataStore } from './metadata-store.js';
import { bindMount, deviceMount, mountsOn, type Mount, type MountContext } from './mounts.js';
import type { Labels, SnapshotRecord } from './records.js';
import type { WritableLayers, WriteMode } from './writable-layers.js';

/** What {@link MountPoints} is made of. */
export interface MountPointsOptions {
  readonly config: SnapshotterConfig;
  readonly log: Logger;
  readonly layout: Layout;
  readonly store: MetadataStore;
  readonly context: MountContext;
  readonly configs: LayerConfigs;
  readonly devices: Devices;
  readonly writable: WritableLayers;
}

/** What a snapshot stands on. */
interface Base {
  /** Directories, nearest first. */
  readonly lowers: readonly string[];
  /** The layer whose device is the last of them. */
  readonly device: SnapshotRecord | undefined;
}

/** Keys of layers that containerd unpacks, with and without a pull: `NAMESPACE/NUMBER/extract-RANDOM CHAIN`. */
export const EXTRACTION = /(?:^|\/)extract-\S+ sha256:[0-9a-f]{64}$/;

/** Keys of what Docker writes its own files to, between image and container. */
const DOCKER_INIT = /-init(?:-|$)/;

/** See the head of this file. */
export class MountPoints {
  readonly #options: MountPointsOptions;

  constructor(options: MountPointsOptions) {
    this.#options = options;
  }

  /** A layer that is being pulled stands on directories only: what is unpacked needs no device. */
  #baseOf(record: SnapshotRecord): Base {
    const pulling =
      record.labels[Label.targetRef] !== undefined ||
      record.labels[Label.type] === 'image' ||
      EXTRACTION.test(record.name);
    const lowers: string[] = [];
    for (const ancestor of this.#options.store.ancestors(record)) {
      if (!pulling && this.#options.configs.has(ancestor.id)) {
        lowers.push(this.#options.layout.mountpoint(ancestor.id));
        return { lowers, device: ancestor };
      }
      lowers.push(this.#options.layout.fs(ancestor.id));
    }
    return { lowers, device: undefined };
  }

  /** Makes what a snapshot needs ready, and says what to mount. @param make its own device is new and empty. */
  async open(record: SnapshotRecord, make = false): Promise<Mount[]> {
    const { id, kind } = record;
    if (this.hasOwnDevice(record) && (await this.#options.writable.has(record)))
      return this.#openOwn(record, this.#modeOf(record), make);
    const base = this.#baseOf(record);
    const { device } = base;
    // An overlaybd blob is unpacked as it is, on nothing.
    if (kind === 'active' && this.#options.configs.has(id))
      return bindMount(this.#options.layout.fs(id), 'rw', 'bind');
    if (device === undefined) return mountsOn(this.#options.context, record, base.lowers);
    const use: DeviceUse = { fileSystem: this.fileSystemOf(device.labels, device.parent) };
    if (kind === 'view' && base.lowers.length === 1 && record.labels[Label.writable] === 'dev') {
      const { devicePath, type } = await this.#options.devices.attached(device.id, {
        ...use,
        transport: deviceTransport(record),
      });
      return deviceMount(devicePath, type, 'ro');
    }
    await this.#options.devices.mounted(device.id, use);
    if (this.#options.config.runtimeType === 'docker' && kind === 'active' && DOCKER_INIT.test(record.name))
      return bindMount(this.#options.layout.fs(id), 'rw');
    return mountsOn(this.#options.context, record, base.lowers);
  }

  async #openOwn(record: SnapshotRecord, mode: WriteMode, make: boolean): Promise<Mount[]> {
    const { id, labels, parent } = record;
    await this.#options.writable.restore(record, this.#options.store.find(parent)?.id);
    const use: DeviceUse = { fileSystem: this.fileSystemOf(labels, parent), own: true, make };
    if (mode === 'dev') {
      const { devicePath, type } = await this.#options.devices.attached(id, {
        ...use,
        transport: deviceTransport(record),
      });
      return deviceMount(devicePath, type, 'rw');
    }
    await this.#options.devices.mounted(id, use);
    return bindMount(this.#options.layout.mountpoint(id), 'rw');
  }

  /** As far as its directory shows; a layer that is being unpacked may look the same. */
  hasOwnDevice({ id, kind }: SnapshotRecord): boolean {
    return kind === 'active' && this.#options.configs.has(id);
  }

  #modeOf({ labels }: SnapshotRecord): WriteMode {
    const mode = labels[Label.writable] ?? this.#options.config.rwMode;
    return mode === 'dev' ? 'dev' : 'dir';
  }

  /** What a snapshot's labels say, or its parent's. */
  fileSystemOf(labels: Labels, parent: string): FileSystemSpec {
    const text = labels[Label.fsType] ?? this.#options.store.find(parent)?.labels[Label.fsType];
    return parseFileSystem(text ?? this.#options.config.defaultFsType);
  }

  /** The image layer whose device a snapshot uses. */
  imageDeviceOf(record: SnapshotRecord): SnapshotRecord | undefined {
    return this.hasOwnDevice(record) ? undefined : this.#baseOf(record).device;
  }

  /** Detaches the device of a layer that no container stands on. What fails is logged: it can be had later. */
  async releaseUnused(layer: SnapshotRecord): Promise<void> {
    const used = (): boolean =>
      this.#options.store.all().some((r) => r.kind !== 'committed' && this.imageDeviceOf(r)?.id === layer.id);
    try {
      await this.#options.devices.release(layer.id, used);
    } catch (error) {
      this.#options.log.warn({ snapshot: layer.id, err: error }, 'device without users is not detached');
    }
  }
}

/** How a snapshot in mode `dev` reaches its device: what it was made with. */
export function deviceTransport({ labels }: SnapshotRecord): DeviceTransport {
  return labels[Label.transport] === 'nbd' ? 'nbd' : 'block';
}
