/**
 * Pulls an image from a registry into containerd. The documents are fetched and kept; the layers are put in snapshots
 * (pull-layers.ts); the name comes last, so that it never leads to less than an image that runs. A lease keeps all of it
 * until then.
 */
import { MemoryBlob, RegistryError, type ReadOptions } from '../blob/index.js';
import {
  chainIds,
  formatPlatform,
  hostPlatform,
  parseImageConfig,
  selectPlatform,
  type Descriptor,
  type ImageDocument,
  type RegistryImage,
  type WantedPlatform,
} from '../oci/index.js';
import { formatReference } from '../registryblob/index.js';
import type { ContainerdClient } from './client.js';
import type { CallOptions } from './connection.js';
import { bytesOf } from './content.js';
import { childLabels, snapshotLabels, sourceLabels } from './gc-labels.js';
import type { Labels } from './messages.js';
import { pullLayers, type LayerState } from './pull-layers.js';

/** Indexes may hold indexes; nobody nests them deeper than this. */
const MAX_DEPTH = 3;
/** overlaybd stacks no more, and overlayfs has a limit of its own below that. */
const MAX_LAYERS = 255;

/** How to pull. */
export interface PullOptions {
  readonly snapshotter: string;
  /** Which image of an index; default: Linux on this machine's architecture. */
  readonly platform?: WantedPlatform | undefined;
  /** Every layer's content is fetched, also of layers that are in place without it. */
  readonly fetchAll?: boolean;
  /** The snapshotter is told not to be lazy. */
  readonly downloadBlobs?: boolean;
  /** Labels of the image's record. */
  readonly labels?: Labels;
  readonly signal?: AbortSignal | undefined;
  /** Bytes of layers that have come, of those that are being fetched. */
  readonly onProgress?: (done: number, total: number) => void;
  /** A layer is in place. Bottom first. */
  readonly onLayer?: (layer: Descriptor, index: number, state: LayerState) => void;
}

/** One layer of what was pulled. */
export interface PulledLayer {
  readonly digest: string;
  readonly size: number;
  readonly state: LayerState;
}

/** What a pull came to. */
export interface PulledImage {
  /** The record's name. */
  readonly name: string;
  /** What the name leads to: an index or a manifest. */
  readonly target: Descriptor;
  readonly platform: string;
  readonly manifest: Descriptor;
  readonly snapshotter: string;
  /** The snapshot that containers stand on. */
  readonly snapshot: string;
  readonly layers: readonly PulledLayer[];
  /** Bytes of layers that were fetched. */
  readonly fetched: number;
}

/**
 * Pulls an image.
 * @param image in its registry; its reference is the name that containerd will have it by.
 * @throws ContainerdError, RegistryError; nothing has the name then that did not have it before.
 */
export async function pullImage(
  client: ContainerdClient,
  image: RegistryImage,
  options: PullOptions,
): Promise<PulledImage> {
  await client.checkSnapshotter(options.snapshotter, { signal: options.signal });
  const lease = await client.createLease({ signal: options.signal });
  let complete = false;
  try {
    const pulled = await new Pull(client, image, options, { signal: options.signal, lease }).run();
    complete = true;
    return pulled;
  } finally {
    // One that cannot be deleted now ends by itself, a day later.
    await client.deleteLease(lease, { collect: !complete }).catch(() => undefined);
  }
}

class Pull {
  readonly #client: ContainerdClient;
  readonly #image: RegistryImage;
  readonly #options: PullOptions;
  readonly #calls: CallOptions;
  readonly #sourceLabels: Labels;
  /** By digest: bytes that are there, of how many. */
  readonly #progress = new Map<string, { done: number; readonly size: number }>();
  #fetched = 0;

  constructor(client: ContainerdClient, image: RegistryImage, options: PullOptions, calls: CallOptions) {
    this.#client = client;
    this.#image = image;
    this.#options = options;
    this.#calls = calls;
    const { registry, repository } = image.reference;
    this.#sourceLabels = sourceLabels(registry, repository);
  }

  async run(): Promise<PulledImage> {
    const { snapshotter, platform = hostPlatform(), onLayer } = this.#options;
    const read: ReadOptions = this.#calls.signal === undefined ? {} : { signal: this.#calls.signal };
    const top = await this.#image.resolve(read);
    await this.#keep(top);
    let document = top;
    for (let depth = 0; document.kind === 'index'; depth++) {
      if (depth === MAX_DEPTH) throw this.#bad('indexes within indexes');
      document = await this.#image.document(selectPlatform(document.index, platform, this.#image.name), read);
      await this.#keep(document);
    }
    const { manifest } = document;
    const configBytes = await this.#image.readBlob(manifest.config, read);
    const config = parseImageConfig(configBytes, this.#image.name);
    const { diff_ids: diffIds } = config.rootfs;
    if (diffIds.length !== manifest.layers.length)
      throw this.#bad(
        `its configuration names ${diffIds.length} layers, its manifest ${manifest.layers.length}`,
      );
    if (diffIds.length > MAX_LAYERS)
      throw this.#bad(`it has ${diffIds.length} layers, at most ${MAX_LAYERS} can be`);
    await this.#write('config', manifest.config, configBytes, this.#sourceLabels);

    const chain = chainIds(diffIds);
    const snapshot = chain.at(-1);
    if (snapshot === undefined) throw this.#bad('it has no layers');
    const name = formatReference(this.#image.reference);
    const states = await pullLayers(
      this.#client,
      {
        layers: manifest.layers,
        diffIds,
        chainIds: chain,
        snapshotter,
        imageRef: name,
        downloadBlobs: this.#options.downloadBlobs ?? false,
        fetchAll: this.#options.fetchAll ?? false,
        fetch: (layer, signal) => this.#fetch(layer, signal),
        onLayer,
      },
      this.#calls,
    );
    await this.#client.content.label(
      manifest.config.digest,
      snapshotLabels(snapshotter, snapshot),
      this.#calls,
    );
    const { mediaType, digest, size } = top.descriptor;
    await this.#client.putImage(
      { name, target: { mediaType, digest, size, annotations: {} }, labels: this.#options.labels ?? {} },
      this.#calls,
    );
    return {
      name,
      target: top.descriptor,
      platform: formatPlatform({
        os: config.os ?? platform.os,
        architecture: config.architecture ?? platform.architecture,
        variant: config.variant,
      }),
      manifest: document.descriptor,
      snapshotter,
      snapshot,
      layers: manifest.layers.map((layer, i) => ({
        digest: layer.digest,
        size: layer.size,
        state: states[i] ?? 'exists',
      })),
      fetched: this.#fetched,
    };
  }

  async #keep(document: ImageDocument): Promise<void> {
    const labels = { ...childLabels(document), ...this.#sourceLabels };
    await this.#write(document.kind, document.descriptor, document.bytes, labels);
  }

  async #write(kind: string, content: Descriptor, bytes: Uint8Array, labels: Labels): Promise<void> {
    const read = bytesOf(new MemoryBlob(bytes, content.digest));
    await this.#client.content.write(
      { ref: `${kind}-${content.digest}`, content, labels, read },
      this.#calls,
    );
  }

  async #fetch(layer: Descriptor, signal: AbortSignal): Promise<void> {
    const progress = { done: 0, size: layer.size };
    this.#progress.set(layer.digest, progress);
    let before: number | undefined;
    const blob = await this.#image.openBlob(layer, { signal });
    try {
      await this.#client.content.write(
        {
          ref: `layer-${layer.digest}`,
          content: layer,
          labels: this.#sourceLabels,
          read: (offset, ended) => blob.stream(offset, { signal: ended }),
          onProgress: (done) => {
            if (before !== undefined && done > before) this.#fetched += done - before;
            before = done;
            progress.done = done;
            this.#tell();
          },
        },
        { ...this.#calls, signal },
      );
      progress.done = layer.size;
      this.#tell();
    } finally {
      await blob.close();
    }
  }

  #tell(): void {
    let done = 0;
    let total = 0;
    for (const layer of this.#progress.values()) {
      done += layer.done;
      total += layer.size;
    }
    this.#options.onProgress?.(done, total);
  }

  #bad(problem: string): RegistryError {
    return new RegistryError('OBD_REGISTRY_RESPONSE', `Cannot pull "${this.#image.name}": ${problem}`, {
      source: this.#image.name,
    });
  }
}
