/**
 * A client of containerd, as small as pulling, converting and committing images needs. Works with containerd 1.6, 1.7
 * and 2. What it makes is kept from garbage collection by a lease until something with a name refers to it:
 *
 *   image record -> index -> manifest -> configuration -> top snapshot -> its parents
 *                (labels containerd.io/gc.ref.*)   \-> layers
 */
import { randomBytes } from 'node:crypto';
import { abortedError, ContainerdError } from '../blob/index.js';
import type { CallOptions, Connection } from './connection.js';
import { ContentStore } from './content.js';
import type { ImageRecord, Labels, Mount, PluginInfo, SnapshotInfo, WireDescriptor } from './messages.js';
import { isContainerdError, resolvePlace, type ContainerdPlace } from './names.js';

/** What a lease is good for if its owner dies; containerd's own clients take a day, too. */
const LEASE_HOURS = 24;
/** Unpacking a layer: at 10 MB/s, 36 GB. */
const APPLY_MS = 3600_000;

/** Something that a lease keeps. */
export interface LeaseResource {
  /** `content`, or `snapshots/NAME` with the name of a snapshotter. */
  readonly type: string;
  readonly id: string;
}

/** A snapshot to make. */
export interface PrepareSnapshot {
  readonly snapshotter: string;
  readonly key: string;
  readonly parent: string;
  readonly labels: Labels;
}

/** See the head of this file. Calls may overlap. */
export class ContainerdClient {
  readonly address: string;
  readonly namespace: string;
  /** containerd's own. */
  readonly version: string;
  readonly content: ContentStore;
  readonly #connection: Connection;

  private constructor(connection: Connection, namespace: string, version: string) {
    this.#connection = connection;
    this.address = connection.address;
    this.namespace = namespace;
    this.version = version;
    this.content = new ContentStore(connection);
  }

  /** Connects. The caller closes it. @throws ConfigError; ContainerdError OBD_CONTAINERD_CONNECTION */
  static async connect(place: ContainerdPlace = {}, options: CallOptions = {}): Promise<ContainerdClient> {
    const { address, namespace } = resolvePlace(place);
    const { Connection: Loaded } = await import('./connection.js');
    const { connection, version } = await Loaded.open(address, namespace, options);
    return new ContainerdClient(connection, namespace, version);
  }

  /** Idempotent. Calls under way fail. */
  close(): void {
    this.#connection.close();
  }

  /**
   * Checks that there is a snapshotter and that it started.
   * @throws ContainerdError OBD_CONTAINERD_NOT_FOUND that lists those there are.
   */
  async checkSnapshotter(name: string, options: CallOptions = {}): Promise<void> {
    const { plugins } = await this.#connection.call<{ plugins: PluginInfo[] }>(
      'introspection.v1.Introspection/Plugins',
      { filters: ['type==io.containerd.snapshotter.v1'] },
      { ...options, action: 'ask for snapshotters' },
    );
    const found = plugins.find(({ id }) => id === name);
    const failed = found?.initErr?.message ?? '';
    if (found !== undefined && failed === '') return;
    const working = plugins.filter(({ initErr }) => (initErr?.message ?? '') === '').map(({ id }) => id);
    throw new ContainerdError(
      'OBD_CONTAINERD_NOT_FOUND',
      `Cannot use snapshotter "${name}": ${found === undefined ? 'containerd has none of that name' : `it did not start: ${failed}`}`,
      {
        source: this.address,
        expected: name,
        actual: working.join(', '),
        hint: `It has ${working.join(', ') || 'none that works'}; containerd's configuration names others in [proxy_plugins]`,
      },
    );
  }

  /** An image's record; undefined if there is none. */
  async image(name: string, options: CallOptions = {}): Promise<ImageRecord | undefined> {
    try {
      const { image } = await this.#connection.call<{ image: ImageRecord }>(
        'images.v1.Images/Get',
        { name },
        { ...options, action: `look for image "${name}"` },
      );
      return image;
    } catch (error) {
      if (isContainerdError(error, 'OBD_CONTAINERD_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  /** Points a name at a manifest or index; labels of a record that is there are kept and added to. Atomic. */
  async putImage(
    image: { readonly name: string; readonly target: WireDescriptor; readonly labels?: Labels },
    options: CallOptions = {},
  ): Promise<void> {
    const { name } = image;
    try {
      await this.#connection.call(
        'images.v1.Images/Create',
        { image },
        { ...options, action: `create image "${name}"` },
      );
    } catch (error) {
      if (!isContainerdError(error, 'OBD_CONTAINERD_EXISTS')) throw error;
      const paths = ['target', ...Object.keys(image.labels ?? {}).map((key) => `labels.${key}`)];
      await this.#connection.call(
        'images.v1.Images/Update',
        { image, updateMask: { paths } },
        { ...options, action: `update image "${name}"` },
      );
    }
  }

  /** Makes a lease. It ends with {@link deleteLease}, or a day later. @returns its id. */
  async createLease(options: CallOptions = {}): Promise<string> {
    const id = `obd-${process.pid}-${randomBytes(6).toString('hex')}`;
    const expire = new Date(Date.now() + LEASE_HOURS * 3600_000).toISOString();
    await this.#connection.call(
      'leases.v1.Leases/Create',
      { id, labels: { 'containerd.io/gc.expire': expire } },
      { ...options, action: 'create a lease' },
    );
    return id;
  }

  /** Lets a lease keep something that is there. @throws ContainerdError OBD_CONTAINERD_NOT_FOUND */
  async addToLease(lease: string, resource: LeaseResource, options: CallOptions = {}): Promise<void> {
    await this.#connection.call(
      'leases.v1.Leases/AddResource',
      { id: lease, resource },
      { ...options, action: `keep ${resource.type} "${resource.id}"` },
    );
  }

  /**
   * Ends a lease: what nothing else refers to will be removed. Idempotent.
   * @param options.collect waits until it is.
   */
  async deleteLease(lease: string, options: { readonly collect?: boolean } = {}): Promise<void> {
    try {
      await this.#connection.call(
        'leases.v1.Leases/Delete',
        { id: lease, sync: options.collect ?? false },
        { action: `delete lease "${lease}"` },
      );
    } catch (error) {
      if (!isContainerdError(error, 'OBD_CONTAINERD_NOT_FOUND')) throw error;
    }
  }

  /** A snapshot; undefined if there is none of that key or name. */
  async snapshot(
    snapshotter: string,
    key: string,
    options: CallOptions = {},
  ): Promise<SnapshotInfo | undefined> {
    try {
      const { info } = await this.#connection.call<{ info: SnapshotInfo }>(
        'snapshots.v1.Snapshots/Stat',
        { snapshotter, key },
        { ...options, action: `look for snapshot "${key}"` },
      );
      return info;
    } catch (error) {
      if (isContainerdError(error, 'OBD_CONTAINERD_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  /**
   * Makes an active snapshot. Once asked for it is waited for, whatever `signal` says: of one that is cancelled,
   * containerd keeps no record, while its snapshotter may have made it.
   * @throws ContainerdError OBD_CONTAINERD_EXISTS, for a layer that needs no unpacking too
   */
  async prepareSnapshot(
    snapshot: PrepareSnapshot,
    { lease, signal }: CallOptions = {},
  ): Promise<readonly Mount[]> {
    const action = `prepare snapshot "${snapshot.key}"`;
    if (signal?.aborted === true) throw abortedError(action, signal);
    const { mounts } = await this.#connection.call<{ mounts: Mount[] }>(
      'snapshots.v1.Snapshots/Prepare',
      snapshot,
      { lease, action },
    );
    return mounts;
  }

  /** Makes a layer of an active snapshot. */
  async commitSnapshot(
    snapshotter: string,
    commit: { readonly name: string; readonly key: string; readonly labels: Labels },
    options: CallOptions = {},
  ): Promise<void> {
    await this.#connection.call(
      'snapshots.v1.Snapshots/Commit',
      { snapshotter, ...commit },
      { ...options, action: `commit snapshot "${commit.name}"` },
    );
  }

  /** Removes a snapshot. */
  async removeSnapshot(snapshotter: string, key: string): Promise<void> {
    await this.#connection.call(
      'snapshots.v1.Snapshots/Remove',
      { snapshotter, key },
      { action: `remove snapshot "${key}"` },
    );
  }

  /** Unpacks a layer of the content store onto mounts. @returns digest of what was in it, unpacked. */
  async apply(layer: WireDescriptor, mounts: readonly Mount[], options: CallOptions = {}): Promise<string> {
    const { applied } = await this.#connection.call<{ applied: WireDescriptor | null }>(
      'diff.v1.Diff/Apply',
      { diff: layer, mounts },
      { ...options, timeoutMs: APPLY_MS, action: `unpack layer "${layer.digest}"` },
    );
    return applied?.digest ?? '';
  }
}
