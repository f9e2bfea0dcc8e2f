/**
 * An OCI image into an overlaybd image. Layer by layer, bottom first: the blob is fetched and unpacked while it is
 * applied to one ext4 image; what it changed becomes the new layer; that is pushed while the next one is applied. The
 * target's tag moves at the very end, so a conversion that fails leaves nothing but unreferenced blobs.
 *
 * Work files have no names: they are gone however the process ends.
 */
import { abortedError, ConvertError, MemoryBlob } from '../blob/index.js';
import { Ext4Image, StreamDigest } from '../native/index.js';
import {
  digestOf,
  hostPlatform,
  MediaType,
  parseImageConfig,
  resolveManifest,
  type Descriptor,
  type ImageConfig,
  type ImageSource,
  type ImageTarget,
  type Manifest,
  type PushOutcome,
  type WantedPlatform,
} from '../oci/index.js';
import { readTar } from '../tar/index.js';
import type { ZFileWriterOptions } from '../zfile/index.js';
import { chainIds, layerUuid } from './chain.js';
import { unpackLayer, type LayerPacking } from './decompress.js';
import { applyLayer, type LayerCounts } from './oci-layer.js';
import { writeLayer, type LayerFile, type WriteLayerOptions } from './write-layer.js';

/** Prefix of overlaybd's layer annotations. */
const ANNOTATION = 'containerd.io/snapshot/overlaybd/';
/** What the reference calls its native format. */
const NATIVE_VERSION = '0.1.0';
/** A stack has at most 255 layers. */
const MAX_LAYERS = 255;
/** Pushes under way while the next layer is applied; each holds a work file. */
const MAX_PUSHES = 2;
const GIB = 2 ** 30;

/** Families of media types. */
export type MediaFamily = 'oci' | 'docker';

/** How to convert. */
export interface ConvertOptions {
  /** Where work files go: room for the unpacked image and its compressed layers. */
  readonly workDir: string;
  /** Bytes of the virtual disk; default 64 GiB. */
  readonly virtualSize?: number;
  /** Default: the source's. */
  readonly mediaTypes?: MediaFamily;
  /** Compression of the layers; default LZ4 in blocks of 4 KiB. */
  readonly zfile?: ZFileWriterOptions;
  /** Which image of an index; default: Linux on this machine's architecture. */
  readonly platform?: WantedPlatform;
  readonly signal?: AbortSignal;
  readonly warn?: (message: string) => void;
  /** Bytes of source blobs taken in so far, of all. */
  readonly onProgress?: (done: number, total: number) => void;
  /** A layer is at the target. */
  readonly onLayer?: (layer: ConvertedLayer) => void;
}

/** One layer, before and after. */
export interface ConvertedLayer {
  /** 0 is the bottom. */
  readonly index: number;
  readonly source: Descriptor;
  readonly descriptor: Descriptor;
  readonly uuid: string;
  /** Bytes of blocks it stores, before compression. */
  readonly dataSize: number;
  readonly outcome: PushOutcome;
  readonly counts: LayerCounts;
}

/** What a conversion came to. */
export interface ConvertedImage {
  /** The source's manifest. */
  readonly source: Descriptor;
  /** The new manifest, which the target's name now leads to. */
  readonly descriptor: Descriptor;
  readonly layers: readonly ConvertedLayer[];
  /** Sums of the layers' blobs. */
  readonly sourceSize: number;
  readonly size: number;
}

/** Converts one image. @throws ConvertError, or what source and target throw */
export async function convertImage(
  source: ImageSource,
  target: ImageTarget,
  options: ConvertOptions,
): Promise<ConvertedImage> {
  const read = options.signal === undefined ? {} : { signal: options.signal };
  await target.check?.();
  const document = await resolveManifest(source, options.platform ?? hostPlatform(), read);
  const { manifest } = document;
  checkLayers(manifest, source.name);
  const configBytes = await source.readBlob(manifest.config, read);
  const config = parseImageConfig(configBytes, source.name);
  const diffIds = checkConfig(config, manifest, source.name);
  const family =
    options.mediaTypes ?? (document.descriptor.mediaType === MediaType.DOCKER_MANIFEST ? 'docker' : 'oci');

  const conversion = new LayerConversion(source, target, family, diffIds, options);
  const layers = await conversion.run(manifest.layers);

  const newConfig = pushable(
    replaceDiffIds(
      configBytes,
      layers.map((layer) => layer.descriptor.digest),
    ),
  );
  await target.pushBlob(newConfig, newConfig.blob, read);
  const bytes = encodeManifest(manifest, family, newConfig, layers);
  const descriptor = await target.pushManifest(
    bytes,
    family === 'oci' ? MediaType.OCI_MANIFEST : MediaType.DOCKER_MANIFEST,
    read,
  );
  if (options.signal?.aborted === true) throw abortedError(`convert "${source.name}"`, options.signal);
  await target.tag(descriptor, read);
  const sum = (sizes: readonly number[]): number => sizes.reduce((total, size) => total + size, 0);
  return {
    source: document.descriptor,
    descriptor,
    layers,
    sourceSize: sum(manifest.layers.map((layer) => layer.size)),
    size: sum(layers.map((layer) => layer.descriptor.size)),
  };
}

function badImage(source: string, problem: string, hint?: string): ConvertError {
  return new ConvertError('OBD_CONVERT_BAD_IMAGE', `Cannot convert "${source}": ${problem}`, {
    source,
    ...(hint !== undefined && { hint }),
  });
}

function checkLayers(manifest: Manifest, source: string): void {
  const { layers } = manifest;
  if (layers.length === 0) throw badImage(source, 'it has no layers');
  if (layers.length > MAX_LAYERS)
    throw badImage(source, `it has ${layers.length} layers, at most ${MAX_LAYERS} can be stacked`);
  for (const layer of layers) {
    if (Object.keys(layer.annotations ?? {}).some((key) => key.startsWith(ANNOTATION)))
      throw badImage(source, `layer ${layer.digest} is an overlaybd layer already`, 'Use the image as it is');
    // "foreign" layers lie elsewhere; artifacts have layers that are no tars at all.
    if (
      !/^application\/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar|docker\.image\.rootfs\.(foreign\.)?diff\.tar)([.+](gzip|zstd))?$/.test(
        layer.mediaType,
      )
    )
      throw badImage(
        source,
        `layer ${layer.digest} has media type "${layer.mediaType}", expected a layer tar`,
      );
  }
}

function checkConfig(config: ImageConfig, manifest: Manifest, source: string): readonly string[] {
  if (config.os !== undefined && config.os !== 'linux')
    throw badImage(source, `it is for ${config.os}, expected linux`);
  const diffIds = config.rootfs.diff_ids;
  if (diffIds.length !== manifest.layers.length)
    throw badImage(
      source,
      `its configuration names ${diffIds.length} layers, its manifest ${manifest.layers.length}`,
    );
  return diffIds;
}

/** Converts the layers of one image, each on top of those before. */
class LayerConversion {
  readonly #source: ImageSource;
  readonly #target: ImageTarget;
  readonly #family: MediaFamily;
  readonly #diffIds: readonly string[];
  readonly #uuids: readonly string[];
  readonly #options: ConvertOptions;
  readonly #pushes = new Set<Promise<void>>();
  readonly #layers: ConvertedLayer[] = [];
  /** Ends everything under way, by the caller's wish or after a failure. */
  readonly #controller = new AbortController();
  readonly #signal: AbortSignal;
  #failure: { readonly error: unknown } | undefined;

  constructor(
    source: ImageSource,
    target: ImageTarget,
    family: MediaFamily,
    diffIds: readonly string[],
    options: ConvertOptions,
  ) {
    this.#source = source;
    this.#target = target;
    this.#family = family;
    this.#diffIds = diffIds;
    this.#uuids = chainIds(diffIds).map(layerUuid);
    this.#options = options;
    const own = this.#controller.signal;
    this.#signal = options.signal === undefined ? own : AbortSignal.any([options.signal, own]);
  }

  async run(layers: readonly Descriptor[]): Promise<readonly ConvertedLayer[]> {
    const { workDir, virtualSize = 64 * GIB } = this.#options;
    const total = layers.reduce((sum, layer) => sum + layer.size, 0);
    let before = 0;
    const image = await Ext4Image.format(workDir, virtualSize);
    try {
      for (const [index, layer] of layers.entries()) {
        // The empty file system itself is part of the bottom layer.
        if (index > 0) image.nextLayer();
        const start = before;
        const { file, result: counts } = await writeLayer(image, this.#layerOptions(index), () =>
          this.#apply(image, layer, index, (done) => {
            this.#options.onProgress?.(start + done, total);
          }),
        );
        before += layer.size;
        while (this.#pushes.size >= MAX_PUSHES) await Promise.race(this.#pushes);
        this.#startPush(index, layer, counts, file);
      }
      // A failed push has ended whatever ran beside it; its own error is the one to tell.
    } catch (error) {
      this.#fail(error);
    } finally {
      await Promise.all(this.#pushes);
      image.close();
    }
    if (this.#failure !== undefined) throw this.#failure.error;
    return this.#layers.sort((a, b) => a.index - b.index);
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#controller.abort();
  }

  async #apply(
    image: Ext4Image,
    layer: Descriptor,
    index: number,
    onRead: (done: number) => void,
  ): Promise<LayerCounts> {
    const { warn } = this.#options;
    const signal = this.#signal;
    const name = `${this.#source.name}@${layer.digest}`;
    const blob = await this.#source.streamBlob(layer, { signal });
    let done = 0;
    const onData = (chunk: Uint8Array): void => {
      done += chunk.byteLength;
      onRead(done);
    };
    const diffId = this.#diffIds[index] ?? '';
    const hash = new StreamDigest(diffId.startsWith('sha512:') ? 'sha512' : 'sha256');
    async function* counted(): AsyncGenerator<Uint8Array, void, undefined> {
      for await (const chunk of blob) {
        onData(chunk as Uint8Array);
        yield chunk as Uint8Array;
      }
    }
    // The digest of a plain tar is that of its blob, which the stream checks.
    let packing: LayerPacking | undefined;
    const isKnown = (): boolean => packing === 'plain' && diffId === layer.digest;
    const onPacking = (found: LayerPacking): void => {
      packing = found;
    };
    async function* hashed(): AsyncGenerator<Uint8Array, void, undefined> {
      for await (const chunk of unpackLayer(counted(), name, onPacking)) {
        if (!isKnown()) await hash.update(chunk);
        yield chunk;
      }
    }
    let counts: LayerCounts;
    try {
      counts = await applyLayer(image, readTar(hashed(), name), {
        signal,
        ...(warn && { warn }),
      });
    } finally {
      blob.destroy();
    }
    if (isKnown()) return counts;
    const actual = await hash.end();
    if (!diffId.endsWith(`:${actual}`))
      throw badImage(
        name,
        `its content is not what the image's configuration says: expected ${diffId}, found ${actual}`,
      );
    return counts;
  }

  #layerOptions(index: number): WriteLayerOptions {
    return {
      workDir: this.#options.workDir,
      ...(this.#options.zfile && { zfile: this.#options.zfile }),
      uuid: this.#uuids[index] ?? null,
      parentUuid: this.#uuids[index - 1] ?? null,
      signal: this.#signal,
    };
  }

  /** Pushes beside the next layer's work. A failure is kept and ends the conversion at the next layer. */
  #startPush(index: number, source: Descriptor, counts: LayerCounts, file: LayerFile): void {
    const push = this.#push(index, source, counts, file)
      .catch((error: unknown) => {
        this.#fail(error);
      })
      .finally(() => {
        this.#pushes.delete(push);
      });
    this.#pushes.add(push);
  }

  async #push(index: number, source: Descriptor, counts: LayerCounts, file: LayerFile): Promise<void> {
    try {
      const outcome = await this.#target.pushBlob(file, file.blob, { signal: this.#signal });
      const descriptor = layerDescriptor(file, this.#family);
      const uuid = this.#uuids[index] ?? '';
      const layer: ConvertedLayer = {
        index,
        source,
        descriptor,
        uuid,
        dataSize: file.dataSize,
        outcome,
        counts,
      };
      this.#layers.push(layer);
      this.#options.onLayer?.(layer);
    } finally {
      await file.blob.close();
    }
  }
}

/** A layer's descriptor; keys and values as the reference writes them. */
export function layerDescriptor(layer: Pick<LayerFile, 'digest' | 'size'>, family: MediaFamily): Descriptor {
  return {
    mediaType: family === 'oci' ? MediaType.OCI_LAYER : MediaType.DOCKER_LAYER,
    digest: layer.digest,
    size: layer.size,
    annotations: {
      [`${ANNOTATION}blob-digest`]: layer.digest,
      [`${ANNOTATION}blob-size`]: String(layer.size),
      [`${ANNOTATION}version`]: NATIVE_VERSION,
    },
  };
}

/** The configuration with other layers in it; everything else, unknown keys too, stays as it was. */
function replaceDiffIds(config: Uint8Array, diffIds: readonly string[]): Uint8Array {
  const json = JSON.parse(Buffer.from(config).toString('utf8')) as { rootfs: object };
  json.rootfs = { ...json.rootfs, diff_ids: diffIds };
  return Buffer.from(JSON.stringify(json));
}

function pushable(bytes: Uint8Array): { digest: string; size: number; blob: MemoryBlob } {
  const digest = digestOf(bytes);
  return { digest, size: bytes.byteLength, blob: new MemoryBlob(bytes, digest) };
}

function encodeManifest(
  source: Manifest,
  family: MediaFamily,
  config: { readonly digest: string; readonly size: number },
  layers: readonly ConvertedLayer[],
): Uint8Array {
  const oci = family === 'oci';
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: oci ? MediaType.OCI_MANIFEST : MediaType.DOCKER_MANIFEST,
      config: {
        mediaType: oci ? MediaType.OCI_CONFIG : MediaType.DOCKER_CONFIG,
        digest: config.digest,
        size: config.size,
      },
      layers: layers.map((layer) => layer.descriptor),
      ...(source.annotations !== undefined && { annotations: source.annotations }),
    }),
  );
}
