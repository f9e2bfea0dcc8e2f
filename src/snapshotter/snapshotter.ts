/**
 * Snapshots as containerd wants them. The store (metadata-store.ts) says what exists; this makes the directories before
 * the store knows a snapshot, and removes them after the store has forgotten it. What takes long happens outside the
 * store's transactions, so nobody waits for another's disk or registry.
 */
import { existsSync } from 'node:fs';
import { OverlaybdError, SnapshotError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { SnapshotterConfig } from './config.js';
import { diskUsage } from './disk-usage.js';
import { parseFilters } from './filters.js';
import { KeyedLocks } from './keyed-locks.js';
import { Label } from './labels.js';
import { Layout } from './layout.js';
import { MetadataStore } from './metadata-store.js';
import { directoryMounts, type Mount, type MountContext } from './mounts.js';
import type { DiskUsage, Labels, SnapshotRecord } from './records.js';
import { SnapshotDirs } from './snapshot-dirs.js';

/** What a snapshotter is made of. */
export interface SnapshotterOptions {
  readonly config: SnapshotterConfig;
  readonly log: Logger;
}

/** The kernel's overlayfs knows "index". */
const OVERLAY_INDEX = '/sys/module/overlay/parameters/index';

/** See the head of this file. Calls may overlap. */
export class Snapshotter {
  readonly #options: SnapshotterOptions;
  readonly #layout: Layout;
  readonly #store: MetadataStore;
  readonly #dirs: SnapshotDirs;
  readonly #context: MountContext;
  /** By key: commit and remove of one snapshot do not overlap. */
  readonly #locks = new KeyedLocks();

  private constructor(options: SnapshotterOptions, layout: Layout, store: MetadataStore, dirs: SnapshotDirs) {
    this.#options = options;
    this.#layout = layout;
    this.#store = store;
    this.#dirs = dirs;
    this.#context = { layout, indexOff: existsSync(OVERLAY_INDEX) };
  }

  /** Opens a root directory, or makes it. The caller holds its lock. @throws IoError, SnapshotError */
  static async open(options: SnapshotterOptions): Promise<Snapshotter> {
    const layout = new Layout(options.config.root);
    const dirs = new SnapshotDirs(layout);
    const greatest = await dirs.open();
    const store = MetadataStore.open(layout.root);
    store.reserveId(greatest);
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
    return record.usage ?? diskUsage(this.#layout.fs(record.id));
  }

  /** Makes a snapshot to write to. @throws SnapshotError, IoError */
  prepare(key: string, parent: string, labels: Labels): Promise<Mount[]> {
    return this.#create('active', key, parent, labels);
  }

  /** Makes a snapshot to look at. @throws SnapshotError, IoError */
  view(key: string, parent: string, labels: Labels): Promise<Mount[]> {
    return this.#create('view', key, parent, labels);
  }

  /** What to mount for an active snapshot or a view. @throws SnapshotError */
  async mounts(key: string): Promise<Mount[]> {
    const record = this.#store.get(key);
    if (record.kind === 'committed')
      throw new SnapshotError('OBD_SNAPSHOT_PRECONDITION', `Cannot mount "${key}": it is committed`);
    return directoryMounts(this.#context, record, this.#store.ancestors(record));
  }

  /** Makes a layer of an active snapshot. @throws SnapshotError, IoError */
  commit(name: string, key: string, labels: Labels, parent = ''): Promise<void> {
    return this.#locks.run(key, async () => {
      const { id } = this.#store.assertCommittable(name, key, parent);
      const usage = await diskUsage(this.#layout.fs(id));
      this.#store.commit(name, key, labels, usage, parent);
    });
  }

  /** Removes a snapshot that has no children. @throws SnapshotError */
  remove(key: string): Promise<void> {
    return this.#locks.run(key, async () => {
      const { id } = this.#store.remove(key);
      if (!this.#options.config.asyncRemove) await this.#discard(this.#layout.dir(id));
    });
  }

  /** Removes the directories that no snapshot has. What fails is logged, and tried again next time. */
  async cleanup(): Promise<void> {
    for (const { path } of await this.#dirs.leftovers(() => this.#store.ids())) await this.#discard(path);
  }

  /** Idempotent. */
  close(): Promise<void> {
    return this.#store.close();
  }

  async #create(kind: 'active' | 'view', key: string, parent: string, labels: Labels): Promise<Mount[]> {
    this.#store.assertCreatable(key, parent);
    if (labels[Label.blobDigest] !== undefined)
      throw new SnapshotError('OBD_SNAPSHOT_UNSUPPORTED', 'Layers in overlaybd format are not supported yet');
    const id = this.#store.nextId();
    const dir = {
      id,
      active: kind === 'active',
      parentId: this.#store.find(parent)?.id,
      imageRef: labels[Label.criImageRef] ?? labels[Label.imageRef],
    };
    const record = await this.#dirs.creating(dir, () =>
      this.#store.create({ id, name: key, parent, kind, labels }),
    );
    return directoryMounts(this.#context, record, this.#store.ancestors(record));
  }

  async #discard(path: string): Promise<void> {
    try {
      await this.#dirs.remove(path);
    } catch (error) {
      this.#options.log.warn(
        { path, err: error, code: error instanceof OverlaybdError ? error.code : undefined },
        'directory of a removed snapshot stays until the next cleanup',
      );
    }
  }
}
