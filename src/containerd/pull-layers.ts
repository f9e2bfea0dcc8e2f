/**
 * The layers of an image that is being pulled, one snapshot each. A snapshotter that can do without a layer's content
 * answers "already exists" to the snapshot that it would be unpacked in; all others are fetched, three at a time ahead
 * of need, and unpacked by containerd.
 */
import { randomBytes } from 'node:crypto';
import { ContainerdError } from '../blob/index.js';
import type { Descriptor } from '../oci/index.js';
import type { CallOptions } from './connection.js';
import type { ContainerdClient } from './client.js';
import { isLazy, LAYER, layerLabels, looksLazy } from './layer-labels.js';
import type { Labels, Mount, SnapshotInfo } from './messages.js';
import { isContainerdError } from './names.js';

/** How a layer came to be in place. */
export type LayerState =
  /** Its snapshot was there, with what is in it. */
  | 'exists'
  /** The snapshotter took it without its content, now or before. */
  | 'lazy'
  /** It was fetched, unless its content was there, and unpacked. */
  | 'unpacked';

/** What to put in place. */
export interface LayersToPull {
  readonly layers: readonly Descriptor[];
  readonly diffIds: readonly string[];
  readonly chainIds: readonly string[];
  readonly snapshotter: string;
  /** For labels: the name by which the snapshotter reaches the layers. */
  readonly imageRef: string;
  /** The snapshotter is told to have content fetched. */
  readonly downloadBlobs: boolean;
  /** Content that is fetched anyway. */
  readonly fetchAll: boolean;
  /** Brings a layer into the content store, unless it is there. */
  readonly fetch: (layer: Descriptor, signal: AbortSignal) => Promise<void>;
  readonly onLayer?: ((layer: Descriptor, index: number, state: LayerState) => void) | undefined;
}

/** Fetches at once: as many as containerd's own clients have. */
const MAX_FETCHES = 3;
/** Another client may make, or remove, the same snapshot at the same time. */
const TRIES = 3;
/** Snapshotters of containerd's own, which know layers as files only. */
const FILE_SNAPSHOTTERS = ['overlayfs', 'native', 'btrfs', 'zfs', 'devmapper', 'aufs', 'blockfile', 'erofs'];

/** Puts all layers in place. @returns the state of each. @throws ContainerdError, RegistryError */
export async function pullLayers(
  client: ContainerdClient,
  what: LayersToPull,
  options: CallOptions,
): Promise<readonly LayerState[]> {
  checkLayers(what);
  const own = new AbortController();
  const signal = options.signal === undefined ? own.signal : AbortSignal.any([options.signal, own.signal]);
  const calls = { ...options, signal };
  const fetches = new Fetches((layer) => what.fetch(layer, signal));
  try {
    if (what.fetchAll) for (const layer of what.layers) fetches.ahead(layer);
    else {
      const first = await firstMissing(client, what, calls);
      for (const layer of what.layers.slice(first))
        if (what.downloadBlobs || !looksLazy(layer)) fetches.ahead(layer);
    }
    const states: LayerState[] = [];
    for (const [i, layer] of what.layers.entries()) {
      const state = await putLayer(client, what, i, fetches, calls);
      states.push(state);
      what.onLayer?.(layer, i, state);
    }
    await fetches.all();
    return states;
  } catch (error) {
    own.abort();
    await fetches.settled();
    throw error;
  }
}

/** Layers are checked before anything is made of them. */
function checkLayers({ layers, snapshotter }: LayersToPull): void {
  if (!FILE_SNAPSHOTTERS.includes(snapshotter)) return;
  const overlaybd = layers.find((layer) => layer.annotations?.[LAYER.blobDigest] !== undefined);
  if (overlaybd === undefined) return;
  throw new ContainerdError(
    'OBD_CONTAINERD_REFUSED',
    `Cannot unpack layer "${overlaybd.digest}" with snapshotter "${snapshotter}": it is in overlaybd format`,
    { hint: 'Choose the overlaybd snapshotter with --snapshotter' },
  );
}

async function firstMissing(
  client: ContainerdClient,
  { chainIds, snapshotter }: LayersToPull,
  options: CallOptions,
): Promise<number> {
  for (let i = chainIds.length; i > 0; i--)
    if ((await client.snapshot(snapshotter, chainIds[i - 1] ?? '', options)) !== undefined) return i;
  return 0;
}

async function putLayer(
  client: ContainerdClient,
  what: LayersToPull,
  index: number,
  fetches: Fetches,
  options: CallOptions,
): Promise<LayerState> {
  const { snapshotter, imageRef, downloadBlobs } = what;
  const layer = what.layers[index];
  const chainId = what.chainIds[index] ?? '';
  if (layer === undefined) throw new RangeError(`There is no layer ${index}`);
  const labels = layerLabels(layer, { target: chainId, imageRef, downloadBlobs });
  for (let tries = 1; ; tries++) {
    const there = await keepSnapshot(client, snapshotter, chainId, options);
    if (there !== undefined) return isLazy(there) ? 'lazy' : 'exists';
    const key = `extract-${Date.now()}000000-${randomBytes(3).toString('hex')} ${chainId}`;
    let mounts: readonly Mount[];
    try {
      const parent = what.chainIds[index - 1] ?? '';
      mounts = await client.prepareSnapshot({ snapshotter, key, parent, labels }, options);
    } catch (error) {
      if (!isContainerdError(error, 'OBD_CONTAINERD_EXISTS') || tries === TRIES)
        throw layerError(error, layer);
      continue;
    }
    try {
      await fetches.done(layer);
      const applied = await client.apply(wireDescriptor(layer), mounts, options);
      const diffId = what.diffIds[index] ?? '';
      if (applied !== diffId)
        throw new ContainerdError(
          'OBD_CONTAINERD_REFUSED',
          `Cannot use layer "${layer.digest}": its content is not what the image's configuration says`,
          { expected: diffId, actual: applied },
        );
      await client.commitSnapshot(snapshotter, { name: chainId, key, labels }, options);
    } catch (error) {
      await client.removeSnapshot(snapshotter, key).catch(() => undefined); // or with the lease
      if (!isContainerdError(error, 'OBD_CONTAINERD_EXISTS') || tries === TRIES)
        throw layerError(error, layer);
      continue;
    }
    await client.content.label(
      layer.digest,
      { 'containerd.io/uncompressed': what.diffIds[index] ?? '' },
      options,
    );
    return 'unpacked';
  }
}

/** A snapshot that is there, and will be while we need it. */
async function keepSnapshot(
  client: ContainerdClient,
  snapshotter: string,
  name: string,
  options: CallOptions,
): Promise<SnapshotInfo | undefined> {
  const found = await client.snapshot(snapshotter, name, options);
  if (found === undefined || options.lease === undefined) return found;
  try {
    await client.addToLease(options.lease, { type: `snapshots/${snapshotter}`, id: name }, options);
    return found;
  } catch (error) {
    if (isContainerdError(error, 'OBD_CONTAINERD_NOT_FOUND')) return undefined;
    throw error;
  }
}

/** Says which layer it is about. */
function layerError(error: unknown, layer: Descriptor): unknown {
  if (!(error instanceof ContainerdError) || error.message.includes(layer.digest)) return error;
  return new ContainerdError(error.code, `${error.message} (layer ${layer.digest})`, {
    ...(error.source !== undefined && { source: error.source }),
    ...(error.hint !== undefined && { hint: error.hint }),
    cause: error.cause,
  });
}

function wireDescriptor({ mediaType, digest, size, annotations }: Descriptor): {
  mediaType: string;
  digest: string;
  size: number;
  annotations: Labels;
} {
  return { mediaType, digest, size, annotations: annotations ?? {} };
}

/** Fetches of layers, each once, a few at a time, in the order they were asked for. */
class Fetches {
  readonly #fetch: (layer: Descriptor) => Promise<void>;
  readonly #started = new Map<string, Promise<void>>();
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(fetch: (layer: Descriptor) => Promise<void>) {
    this.#fetch = fetch;
  }

  /** Begins one, if it was not begun. */
  ahead(layer: Descriptor): void {
    if (this.#started.has(layer.digest)) return;
    const work = this.#run(layer);
    work.catch(() => undefined); // whoever waits for it is told
    this.#started.set(layer.digest, work);
  }

  /** Until a layer is there. */
  done(layer: Descriptor): Promise<void> {
    this.ahead(layer);
    return this.#started.get(layer.digest) ?? Promise.resolve();
  }

  /** Until all are there. */
  async all(): Promise<void> {
    await Promise.all(this.#started.values());
  }

  /** Until nothing is under way. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#started.values());
  }

  async #run(layer: Descriptor): Promise<void> {
    if (this.#running === MAX_FETCHES)
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    else this.#running++;
    try {
      await this.#fetch(layer);
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#running--;
      else next();
    }
  }
}
