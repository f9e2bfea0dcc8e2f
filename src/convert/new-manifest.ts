/** The documents of a converted image. */
import { MemoryBlob } from '../blob/index.js';
import { digestOf, MediaType, type Descriptor, type Manifest } from '../oci/index.js';
import type { ConvertedLayer, MediaFamily } from './options.js';
import { ANNOTATION } from './source-image.js';
import type { LayerFile } from './write-layer.js';

/** What the reference calls its native format. */
const NATIVE_VERSION = '0.1.0';
/** Type of an image that refers to its source, as the reference has it. */
export const ARTIFACT_TYPE = 'application/vnd.containerd.overlaybd.native.v1+json';

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
export function replaceDiffIds(config: Uint8Array, diffIds: readonly string[]): Uint8Array {
  const json = JSON.parse(Buffer.from(config).toString('utf8')) as { rootfs: object };
  json.rootfs = { ...json.rootfs, diff_ids: diffIds };
  return Buffer.from(JSON.stringify(json));
}

/** Bytes as a blob to push. */
export function pushable(bytes: Uint8Array): { digest: string; size: number; blob: MemoryBlob } {
  const digest = digestOf(bytes);
  return { digest, size: bytes.byteLength, blob: new MemoryBlob(bytes, digest) };
}

/** What a manifest or index needs to say that it refers to another. */
export function subjectOf(source: Descriptor): object {
  const { mediaType, digest, size } = source;
  return { subject: { mediaType, digest, size } };
}

/** @param referTo the source, if the image is to refer to it. */
export function encodeManifest(
  source: Manifest,
  family: MediaFamily,
  config: { readonly digest: string; readonly size: number },
  layers: readonly ConvertedLayer[],
  referTo?: Descriptor,
): Uint8Array {
  const oci = family === 'oci';
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: oci ? MediaType.OCI_MANIFEST : MediaType.DOCKER_MANIFEST,
      ...(referTo && { artifactType: ARTIFACT_TYPE }),
      config: {
        mediaType: oci ? MediaType.OCI_CONFIG : MediaType.DOCKER_CONFIG,
        digest: config.digest,
        size: config.size,
      },
      layers: layers.map((layer) => layer.descriptor),
      ...(referTo && subjectOf(referTo)),
      ...(source.annotations !== undefined && { annotations: source.annotations }),
    }),
  );
}
