/** One image of a source: read, checked for what would make converting it pointless, and described. */
import { ConvertError, type ReadOptions } from '../blob/index.js';
import {
  formatPlatform,
  parseImageConfig,
  type Descriptor,
  type ImageConfig,
  type ImageDocument,
  type ImageSource,
  type Manifest,
} from '../oci/index.js';

/** Prefix of overlaybd's layer annotations. */
export const ANNOTATION = 'containerd.io/snapshot/overlaybd/';
/** A stack has at most 255 layers. */
const MAX_LAYERS = 255;
const LAYER_TAR =
  /^application\/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar|docker\.image\.rootfs\.(foreign\.)?diff\.tar)([.+](gzip|zstd))?$/;

/** A manifest with its configuration. */
export interface SourceImage {
  readonly descriptor: Descriptor;
  readonly manifest: Manifest;
  readonly config: ImageConfig;
  /** As they are: the new configuration keeps what we do not know. */
  readonly configBytes: Uint8Array;
  /** Digests of the plain layers, bottom first. */
  readonly diffIds: readonly string[];
  /** `os/arch[/variant]` as the configuration says. */
  readonly platform: string;
}

/** @throws ConvertError OBD_CONVERT_BAD_IMAGE if it cannot be converted */
export async function readSourceImage(
  source: ImageSource,
  document: Extract<ImageDocument, { kind: 'manifest' }>,
  options: ReadOptions,
): Promise<SourceImage> {
  const { manifest, descriptor } = document;
  checkLayers(manifest, source.name);
  const configBytes = await source.readBlob(manifest.config, options);
  const config = parseImageConfig(configBytes, source.name);
  const { os = 'linux', architecture = 'unknown', variant } = config;
  return {
    descriptor,
    manifest,
    config,
    configBytes,
    diffIds: checkConfig(config, manifest, source.name),
    platform: formatPlatform({ os, architecture, ...(variant !== undefined && { variant }) }),
  };
}

/** The error for an image that is none, or not one of ours. */
export function badImage(source: string, problem: string, hint?: string): ConvertError {
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
    if (!LAYER_TAR.test(layer.mediaType))
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
