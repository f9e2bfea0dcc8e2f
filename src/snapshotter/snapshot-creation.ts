/**
 * Making snapshots: the directory first, then what a layer or a container needs in it, then its record. What fails, or
 * what nobody waits for any more, leaves nothing.
 */
import { OverlaybdError, SnapshotError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { SnapshotterConfig } from './config.js';
import type { DeviceHost } from './device-host.js';
import type { Devices } from './devices.js';
import { Label } from './labels.js';
import { layerKind, recordTraceOf, type LayerConfigs } from './layer-config.js';
import type { Layout } from './layout.js';
import type { MetadataStore } from './metadata-store.js';
import { EXTRACTION, type MountPoints } from './mount-points.js';
import type { Mount } from './mounts.js';
import type { Labels, SnapshotRecord } from './records.js';
import type { SnapshotDirs } from './snapshot-dirs.js';
import type { SpaceLimits } from './space-limits.js';
import { transportOf, writeModeOf, type WritableLayers } from './writable-layers.js';

/** What it works with: the snapshotter's own. */
export interface CreationParts {
  readonly config: SnapshotterConfig;
  readonly log: Logger;
  readonly layout: Layout;
  readonly store: MetadataStore;
  readonly dirs: SnapshotDirs;
  readonly host: DeviceHost;
  readonly devices: Devices;
  readonly configs: LayerConfigs;
  readonly writable: WritableLayers;
  readonly mountPoints: MountPoints;
  readonly limits: SpaceLimits;
  /** Removes a snapshot again. */
  readonly remove: (key: string) => Promise<void>;
}

/** What is asked for. */
export interface NewSnapshot {
  readonly key: string;
  readonly parent: string;
  readonly labels: Labels;
  readonly gone: () => boolean;
}

/** See the head of this file. Calls may overlap. */
export class SnapshotCreation {
  readonly #parts: CreationParts;

  constructor(parts: CreationParts) {
    this.#parts = parts;
  }

  /**
   * @param gone whether nobody will hear the answer any more: then nothing is made, as nobody would remove it.
   * @returns what to mount. @throws SnapshotError, IoError, what a device's attach throws
   */
  async create(kind: 'active' | 'view', { key, parent, labels, gone }: NewSnapshot): Promise<Mount[]> {
    this.#parts.store.assertCreatable(key, parent);
    const parentRecord = this.#parts.store.find(parent);
    const id = this.#parts.store.nextId();
    const dir = {
      id,
      active: kind === 'active',
      parentId: parentRecord?.id,
      imageRef: labels[Label.criImageRef] ?? labels[Label.imageRef],
    };
    const mounts = await this.#parts.dirs.creating(dir, async () => {
      if (kind === 'active' && labels[Label.targetRef] !== undefined) {
        if (labels[Label.accelerationLayer] === 'yes')
          await this.#parts.configs.writeLocal(id, parentRecord?.id, labels);
        else if (layerKind(labels) === 'remote') {
          await this.#parts.configs.writeRemote(id, parentRecord?.id, labels);
          if (labels[Label.downloadBlob] !== 'download') {
            if (gone()) throw callerGone(key);
            this.#commitRemote(id, parent, labels);
            return undefined;
          }
        }
      }
      return this.#createPlain(id, { name: key, parent, kind, labels });
    });
    // That is how containerd learns that nothing has to be fetched.
    if (mounts === undefined) throw targetExists(labels);
    if (gone()) {
      await this.#parts.remove(key);
      throw callerGone(key);
    }
    return mounts;
  }

  /** Anything that is not a remote layer of a pull. */
  async #createPlain(
    id: number,
    { name, parent, kind, labels }: Pick<SnapshotRecord, 'name' | 'parent' | 'kind' | 'labels'>,
  ): Promise<Mount[]> {
    const parentId = this.#parts.store.find(parent)?.id;
    const mode = writeModeOf(labels, {
      rwMode: this.#parts.config.rwMode,
      onDevice: parentId === undefined ? kind === 'active' : this.#parts.configs.has(parentId),
      unpacking: EXTRACTION.test(name),
    });
    const kept = Object.fromEntries(
      Object.entries(labels).filter(([name]) => name !== Label.writable && name !== Label.transport),
    );
    if (mode !== undefined) kept[Label.writable] = mode;
    // Whatever the configuration says later.
    if (mode === 'dev') kept[Label.transport] = transportOf(labels, this.#parts.config.devTransport);
    const own = mode !== undefined && kind === 'active';
    let make = false;
    const rootfs = labels[Label.targetRef] === undefined && labels[Label.type] !== 'image';
    if (kind === 'active' && rootfs && !own && !EXTRACTION.test(name))
      await this.#parts.limits.apply(id, labels);
    if (!own && kind === 'active' && rootfs && !EXTRACTION.test(name))
      await this.#setRecording(parent, labels);
    if (own) {
      const { type, makeOptions } = this.#parts.mountPoints.fileSystemOf(labels, parent);
      const ext4 = type === 'ext4' && makeOptions === '';
      make = parentId === undefined && !ext4;
      await this.#parts.writable.create(id, parentId, labels, ext4);
    }
    try {
      const record = this.#parts.store.create({ id, name, parent, kind, labels: kept });
      return await this.#parts.mountPoints.open(record, make);
    } catch (error) {
      if (this.#parts.store.find(name)?.id === id) this.#parts.store.remove(name);
      if (own) {
        await this.#parts.devices.release(id).catch((second: unknown) => {
          this.#parts.log.warn({ snapshot: id, err: second }, 'device of a snapshot that failed stays');
        });
        await this.#parts.writable.discard(id).catch(() => undefined); // its directory is removed anyway
      }
      throw error;
    }
  }

  /** All containers of an image share its device, so it can record only for one that comes before the others. */
  async #setRecording(parent: string, labels: Labels): Promise<void> {
    const layer = this.#parts.store.find(parent);
    if (layer === undefined || !this.#parts.configs.has(layer.id)) return;
    const path = recordTraceOf(labels);
    await this.#parts.configs.setRecording(layer.id, path, async () => {
      await this.#parts.mountPoints.releaseUnused(layer);
      const [mounted] = await this.#parts.host.mountsBelow(this.#parts.layout.mountpoint(layer.id));
      if (mounted !== undefined && path !== undefined)
        throw new SnapshotError(
          'OBD_SNAPSHOT_PRECONDITION',
          `Cannot record a trace into "${path}": the image's device is in use`,
          { source: path, hint: 'Remove the containers of the image first' },
        );
    });
  }

  /**
   * Commits a remote layer at once, under the name that the pull has for it.
   * @throws SnapshotError OBD_SNAPSHOT_EXISTS if it is there already.
   */
  #commitRemote(id: number, parent: string, labels: Labels): void {
    const target = labels[Label.targetRef] ?? '';
    const before = this.#parts.store.find(target);
    if (before?.parent === parent && before.kind === 'committed') throw targetExists(labels);
    this.#parts.store.create({
      id,
      // containerd finds it by its label and its parent; the name may be another image's.
      name: before === undefined ? target : `${target}-${id}`,
      parent,
      kind: 'committed',
      labels: { ...labels, [Label.remote]: 'remote snapshot' },
    });
  }
}

function targetExists(labels: Labels): SnapshotError {
  return new SnapshotError(
    'OBD_SNAPSHOT_EXISTS',
    `target snapshot "${labels[Label.targetRef] ?? ''}" already exists`,
  );
}

function callerGone(key: string): OverlaybdError {
  return new OverlaybdError('OBD_ABORTED', `Snapshot "${key}" was not made: its caller went away`);
}
