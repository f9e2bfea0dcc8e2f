/**
 * An OCI image into an overlaybd image: its layers (layer-conversion.ts), then its configuration, its manifest, for
 * several platforms their index (convert-index.ts), at the very end the target's tag. So a conversion that fails leaves
 * nothing but unreferenced blobs, and no name ever leads to an image that is not whole.
 *
 * Work files have no names: they are gone however the process ends.
 */
import { abortedError, ConvertError, type ReadOptions } from '../blob/index.js';
import {
  hostPlatform,
  MediaType,
  resolveManifest,
  type ImageSource,
  type ImageTarget,
  type WantedPlatform,
} from '../oci/index.js';
import { convertIndex } from './convert-index.js';
import { LayerConversion } from './layer-conversion.js';
import { encodeManifest, pushable, replaceDiffIds } from './new-manifest.js';
import {
  DEFAULT_VIRTUAL_SIZE,
  firstVirtualSize,
  MAX_VIRTUAL_SIZE,
  sumSizes,
  type ConvertedImage,
  type ConvertedLayer,
  type ConvertOptions,
} from './options.js';
import { readSourceImage, type SourceImage } from './source-image.js';

/** Converts one image, or all or several of an index. @throws ConvertError, or what source and target throw */
export async function convertImage(
  source: ImageSource,
  target: ImageTarget,
  options: ConvertOptions,
): Promise<ConvertedImage> {
  await target.check?.();
  const read = options.signal === undefined ? {} : { signal: options.signal };
  const converted = await convertDocument(source, target, options, read);
  if (options.signal?.aborted === true) throw abortedError(`convert "${source.name}"`, options.signal);
  if (options.tag !== false) await target.tag(converted.descriptor, read);
  return converted;
}

async function convertDocument(
  source: ImageSource,
  target: ImageTarget,
  options: ConvertOptions,
  read: ReadOptions,
): Promise<ConvertedImage> {
  const { platform = hostPlatform() } = options;
  if (isSeveral(platform)) {
    const document = await source.resolve(read);
    if (document.kind === 'index')
      return convertIndex(source, target, document, platform, options, convertManifest);
  }
  const one = isSeveral(platform) ? hostPlatform() : platform;
  const document = await resolveManifest(source, one, read);
  return convertManifest(source, target, await readSourceImage(source, document, read), options);
}

function isSeveral(
  platform: WantedPlatform | readonly WantedPlatform[] | 'all',
): platform is readonly WantedPlatform[] | 'all' {
  return platform === 'all' || Array.isArray(platform);
}

/** Converts one image up to its manifest, which is pushed but has no name yet. */
async function convertManifest(
  source: ImageSource,
  target: ImageTarget,
  image: SourceImage,
  options: ConvertOptions,
): Promise<ConvertedImage> {
  const read = options.signal === undefined ? {} : { signal: options.signal };
  const { manifest, descriptor: from } = image;
  const asSource = from.mediaType === MediaType.DOCKER_MANIFEST ? 'docker' : 'oci';
  const family = options.referrer === true ? 'oci' : (options.mediaTypes ?? asSource);
  const { layers, virtualSize } = await convertLayers(source, target, image, family, options);

  const newConfig = pushable(
    replaceDiffIds(
      image.configBytes,
      layers.map((layer) => layer.descriptor.digest),
    ),
  );
  await target.pushBlob(newConfig, newConfig.blob, read);
  const bytes = encodeManifest(
    manifest,
    family,
    newConfig,
    layers,
    options.referrer === true ? from : undefined,
  );
  const mediaType = family === 'oci' ? MediaType.OCI_MANIFEST : MediaType.DOCKER_MANIFEST;
  const descriptor = await target.pushManifest(bytes, mediaType, read);
  options.onEvent?.({ event: 'pushed', digest: descriptor.digest, mediaType, size: descriptor.size });
  return {
    source: from,
    descriptor,
    platform: image.platform,
    virtualSize,
    layers,
    sourceSize: sumSizes(manifest.layers),
    size: sumSizes(layers.map((layer) => layer.descriptor)),
  };
}

/** How much a layer unpacks to is known when it has: an image that did not fit begins again on a larger disk. */
async function convertLayers(
  source: ImageSource,
  target: ImageTarget,
  image: SourceImage,
  family: 'oci' | 'docker',
  options: ConvertOptions,
): Promise<{ layers: readonly ConvertedLayer[]; virtualSize: number }> {
  const { virtualSize: least = DEFAULT_VIRTUAL_SIZE, growVirtualSize: grow = false } = options;
  const { layers } = image.manifest;
  for (let virtualSize = firstVirtualSize(least, layers, grow); ; virtualSize *= 2) {
    options.onEvent?.({
      event: 'start',
      manifest: image.descriptor.digest,
      platform: image.platform,
      layers: layers.length,
      size: sumSizes(layers),
      virtualSize,
    });
    try {
      const conversion = new LayerConversion(source, target, image, family, { ...options, virtualSize });
      return { layers: await conversion.run(), virtualSize };
    } catch (error) {
      const full = error instanceof ConvertError && error.code === 'OBD_CONVERT_NO_SPACE';
      if (!full || !grow || virtualSize * 2 > MAX_VIRTUAL_SIZE) throw error;
      options.warn?.(
        `${source.name} does not fit on a disk of ${virtualSize} bytes: it is converted again for one of ${virtualSize * 2}`,
      );
    }
  }
}
