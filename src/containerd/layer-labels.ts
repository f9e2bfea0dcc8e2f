/** What a snapshotter is told of a layer: labels, made of the manifest's annotations and of what the user wants. */
import { RegistryError } from '../blob/index.js';
import type { Descriptor } from '../oci/index.js';
import type { Labels, SnapshotInfo } from './messages.js';

const OBD = 'containerd.io/snapshot/overlaybd/';

/** Labels of overlaybd layers; the first two are annotations by the same names. */
export const LAYER = {
  blobDigest: `${OBD}blob-digest`,
  blobSize: `${OBD}blob-size`,
  imageRef: 'containerd.io/snapshot/image-ref',
  /** What CRI and nerdctl say. */
  criImageRef: 'containerd.io/snapshot/cri.image-ref',
  /** `download`: the snapshotter is not to be lazy. */
  download: `${OBD}download-remote-blob`,
} as const;

/**
 * Annotations that describe a layer. Others of the prefix are the user's to say (where a container's writable layer is,
 * what is recorded where, what is fetched): an image does not get to.
 */
const DESCRIBING = [
  'blob-digest',
  'blob-size',
  'blob-fs-type',
  'version',
  'acceleration-layer',
  'turbo-oci/target-digest',
  'turbo-oci/target-media-type',
  'fastoci/target-digest',
  'fastoci/target-media-type',
].map((name) => OBD + name);
const TURBO = [`${OBD}turbo-oci/target-digest`, `${OBD}fastoci/target-digest`];

/** containerd's limit of a label, key and value together. */
const MAX_LABEL = 4096;

function isTurbo(layer: Descriptor): boolean {
  return TURBO.some((key) => layer.annotations?.[key] !== undefined);
}

/** True for a layer that the overlaybd snapshotter takes without its content. */
export function looksLazy({ annotations = {}, ...layer }: Descriptor): boolean {
  return (
    annotations[LAYER.blobDigest] !== undefined &&
    annotations[LAYER.blobSize] !== undefined &&
    annotations[`${OBD}acceleration-layer`] !== 'yes' &&
    !isTurbo({ ...layer, annotations })
  );
}

/** True for a snapshot that was made of a layer without its content. containerd keeps the labels it was asked for by. */
export function isLazy({ labels }: SnapshotInfo): boolean {
  return (
    labels[LAYER.blobDigest] !== undefined &&
    labels[LAYER.blobSize] !== undefined &&
    (labels[LAYER.imageRef] ?? labels[LAYER.criImageRef]) !== undefined &&
    labels[LAYER.download] !== 'download' &&
    labels[`${OBD}acceleration-layer`] !== 'yes' &&
    !TURBO.some((key) => labels[key] !== undefined)
  );
}

/**
 * Labels of the snapshot that a layer is put in.
 * @throws RegistryError OBD_REGISTRY_RESPONSE for annotations that name another blob than the layer: what ran would not
 *   be what the manifest's digest stands for.
 */
export function layerLabels(
  layer: Descriptor,
  more: { readonly target: string; readonly imageRef: string; readonly downloadBlobs: boolean },
): Labels {
  const { annotations = {} } = layer;
  const expected = { [LAYER.blobDigest]: layer.digest, [LAYER.blobSize]: String(layer.size) };
  if (looksLazy(layer))
    for (const [key, value] of Object.entries(expected))
      if (annotations[key] !== value)
        throw new RegistryError(
          'OBD_REGISTRY_RESPONSE',
          `Cannot pull layer "${layer.digest}": its annotation "${key}" is "${annotations[key]?.slice(0, 100) ?? ''}", expected "${value}"`,
          { source: layer.digest, expected: value, hint: 'Convert the image again' },
        );
  const labels: Record<string, string> = {
    'containerd.io/snapshot.ref': more.target,
    [LAYER.imageRef]: more.imageRef,
    ...(more.downloadBlobs && { [LAYER.download]: 'download' }),
  };
  for (const key of DESCRIBING) {
    const value = annotations[key];
    if (value !== undefined && Buffer.byteLength(key) + Buffer.byteLength(value) <= MAX_LABEL)
      labels[key] = value;
  }
  return labels;
}
