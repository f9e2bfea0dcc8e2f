/**
 * What a conversion would do, found out without fetching a layer or writing anything: which layers are at the target
 * already, and estimates for the others. A gzip stream ends with the length of what it holds, so that is asked of the
 * source; of other packings it is guessed.
 */
import { Codec } from '../native/index.js';
import {
  hostPlatform,
  resolveManifest,
  type Descriptor,
  type ImageSource,
  type ImageTarget,
} from '../oci/index.js';
import { imagesOf } from './convert-index.js';
import type { CachedLayer } from './layer-cache.js';
import { layerIdentities, mountableFrom, QUESTIONS } from './layer-conversion.js';
import { layerDescriptor } from './new-manifest.js';
import { DEFAULT_VIRTUAL_SIZE, firstVirtualSize, type ConvertOptions } from './options.js';
import { readSourceImage, type SourceImage } from './source-image.js';

/** What becomes of a layer: `reuse` and `mount` need nothing of it, `apply` needs it below a layer that is made. */
export type LayerAction = 'reuse' | 'mount' | 'apply' | 'convert';

/** One layer of a plan. Sizes are bytes. */
export interface LayerPlan {
  readonly index: number;
  readonly digest: string;
  readonly sourceSize: number;
  readonly action: LayerAction;
  /** Of its plain tar, estimated. */
  readonly unpackedSize: number;
  /** Of the new layer: known if it is there already, else estimated. */
  readonly size: number;
}

/** One image of a plan. */
export interface ImagePlan {
  readonly source: Descriptor;
  readonly platform: string;
  readonly virtualSize: number;
  readonly layers: readonly LayerPlan[];
  /** Bytes from the source. */
  readonly fetch: number;
  /** Bytes to the target, estimated. */
  readonly upload: number;
  /** Bytes of the work directory, at the most, estimated. */
  readonly workSpace: number;
  /** Work on this machine, estimated; waiting for the network is not in it. */
  readonly seconds: number;
}

/**
 * New bytes per byte of plain tar, and bytes of plain tar per second: a tar.gz of 1.4 GB out of /usr, on two cores that
 * had other work too (load average 11). Applying alone was not told apart.
 */
const RATES = {
  lz4: { ratio: 0.58, bytesPerSecond: 67e6 },
  zstd: { ratio: 0.44, bytesPerSecond: 62e6 },
  apply: 67e6,
} as const;
/** Guess for what does not say how long it is. */
const TYPICAL_PACKING = 2.6;
/** Deflate cannot pack better than this. */
const MAX_PACKING = 1032;

/** Plans what {@link convertImage} would do with the same arguments. @throws as that does for the image itself */
export async function planConversion(
  source: ImageSource,
  target: ImageTarget,
  options: ConvertOptions,
): Promise<readonly ImagePlan[]> {
  await target.check?.();
  const read = options.signal === undefined ? {} : { signal: options.signal };
  const { platform = hostPlatform() } = options;
  const several = platform === 'all' || Array.isArray(platform);
  if (several) {
    const document = await source.resolve(read);
    if (document.kind === 'index') {
      const wanted = platform as Parameters<typeof imagesOf>[2];
      const images = await imagesOf(source, document, wanted, options, read);
      const plans: ImagePlan[] = [];
      for (const { image } of images) plans.push(await planImage(source, target, image, options));
      return plans;
    }
  }
  const one = several ? hostPlatform() : (platform as ReturnType<typeof hostPlatform>);
  const document = await resolveManifest(source, one, read);
  return [await planImage(source, target, await readSourceImage(source, document, read), options)];
}

async function planImage(
  source: ImageSource,
  target: ImageTarget,
  image: SourceImage,
  options: ConvertOptions,
): Promise<ImagePlan> {
  const { virtualSize: least = DEFAULT_VIRTUAL_SIZE, growVirtualSize: grow = false, zfile } = options;
  const sources = image.manifest.layers;
  const virtualSize = firstVirtualSize(least, sources, grow);
  const identities = layerIdentities(image.diffIds, virtualSize, zfile);
  const found: Awaited<ReturnType<typeof presence>>[] = [];
  for (let at = 0; at < identities.length; at += QUESTIONS)
    found.push(
      ...(await Promise.all(
        identities
          .slice(at, at + QUESTIONS)
          .map((identity) => presence(target, options.cache?.find(identity), options)),
      )),
    );
  const rates = zfile?.codec === Codec.ZSTD ? RATES.zstd : RATES.lz4;
  const last = found.findLastIndex((known) => known === undefined);
  const layers: LayerPlan[] = [];
  for (const [index, layer] of sources.entries()) {
    const known = found[index];
    const needed = index <= last;
    const unpackedSize = needed ? await unpackedSizeOf(source, layer, options) : 0;
    layers.push({
      index,
      digest: layer.digest,
      sourceSize: layer.size,
      action: known === undefined ? 'convert' : needed ? 'apply' : known.action,
      unpackedSize,
      size: known?.layer.size ?? Math.ceil(unpackedSize * rates.ratio),
    });
  }
  const sum = (value: (layer: LayerPlan) => number): number =>
    layers.reduce((total, layer) => total + value(layer), 0);
  const made = (layer: LayerPlan): boolean => layer.action === 'convert';
  const largest = layers.filter(made).map(({ size }) => size);
  return {
    source: image.descriptor,
    platform: image.platform,
    virtualSize,
    layers,
    fetch: sum((layer) => (layer.index <= last ? layer.sourceSize : 0)),
    upload: sum((layer) => (made(layer) ? layer.size : 0)),
    // The unpacked image, the layer being made, and two on their way.
    workSpace:
      sum((layer) => layer.unpackedSize) +
      largest
        .sort((a, b) => b - a)
        .slice(0, 3)
        .reduce((total, size) => total + size, 0),
    seconds: sum((layer) => layer.unpackedSize / (made(layer) ? rates.bytesPerSecond : RATES.apply)),
  };
}

/** Looks, but mounts nothing. */
async function presence(
  target: ImageTarget,
  known: CachedLayer | undefined,
  options: ConvertOptions,
): Promise<{ action: 'reuse' | 'mount'; layer: CachedLayer } | undefined> {
  if (known === undefined) return undefined;
  const read = options.signal === undefined ? {} : { signal: options.signal };
  if (await target.hasBlob(layerDescriptor(known, 'oci'), read)) return { action: 'reuse', layer: known };
  const mountable = target.mountBlob !== undefined && mountableFrom(target, known).length > 0;
  return mountable ? { action: 'mount', layer: known } : undefined;
}

async function unpackedSizeOf(
  source: ImageSource,
  layer: Descriptor,
  options: ConvertOptions,
): Promise<number> {
  const { mediaType, size } = layer;
  if (mediaType.endsWith('tar')) return size;
  if (mediaType.endsWith('gzip') && size > 18) {
    const read = options.signal === undefined ? {} : { signal: options.signal };
    const blob = await source.openBlob(layer, read);
    try {
      const tail = Buffer.alloc(4);
      await blob.read(size - 4, tail, read);
      // Of a stream of several members it is the last one's, and it has 32 bits.
      let length = tail.readUInt32LE();
      while (length < size / 2) length += 2 ** 32;
      if (length <= size * MAX_PACKING) return length;
    } finally {
      await blob.close();
    }
  }
  return Math.ceil(size * TYPICAL_PACKING);
}
