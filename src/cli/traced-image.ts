/** The image with a trace: the same layers, and on top one that carries the trace (formats.md 5.3). */
import { MemoryBlob, type ReadOptions } from '../blob/index.js';
import {
  digestOf,
  MediaType,
  type Descriptor,
  type ImageSource,
  type ImageTarget,
  type Manifest,
} from '../oci/index.js';
import { packTraceLayer } from '../prefetch/index.js';

const PREFIX = 'containerd.io/snapshot/overlaybd/';
/** Whether a layer carries a trace. */
export function isTraceLayer({ annotations }: Descriptor): boolean {
  return annotations?.[`${PREFIX}acceleration-layer`] === 'yes';
}

/** An image to which a trace is added. */
export interface UntracedImage {
  readonly source: ImageSource;
  readonly manifest: Manifest;
  readonly manifestType: string;
  /** The configuration's bytes. */
  readonly config: Uint8Array;
}

/**
 * Makes and stores the image with its trace; one that was there is replaced. The target's tag moves last.
 * @param createdBy how the history tells it.
 */
export async function pushTracedImage(
  image: UntracedImage,
  target: ImageTarget,
  trace: Uint8Array,
  createdBy: string,
  read: ReadOptions = {},
): Promise<Descriptor> {
  const { source, manifest, manifestType } = image;
  await target.check?.();
  const docker = manifestType === MediaType.DOCKER_MANIFEST;
  const old = manifest.layers.length > 0 && isTraceLayer(manifest.layers.at(-1) ?? manifest.config);
  const below = old ? manifest.layers.slice(0, -1) : manifest.layers;
  const mountFrom =
    source.place !== undefined && source.place.host === target.place?.host
      ? source.place.repository
      : undefined;
  for (const layer of below) {
    if (await target.hasBlob(layer, read)) continue;
    const content = await source.openBlob(layer, read);
    try {
      await target.pushBlob(layer, content, { ...read, ...(mountFrom === undefined ? {} : { mountFrom }) });
    } finally {
      await content.close();
    }
  }
  const push = async (bytes: Uint8Array): Promise<{ digest: string; size: number }> => {
    const blob = { digest: digestOf(bytes), size: bytes.byteLength };
    await target.pushBlob(blob, new MemoryBlob(bytes, blob.digest), { ...read, verified: true });
    return blob;
  };
  const layer = await push(packTraceLayer(trace));
  const fsType = below.at(-1)?.annotations?.[`${PREFIX}blob-fs-type`];
  const descriptor: Descriptor = {
    mediaType: docker ? MediaType.DOCKER_LAYER : MediaType.OCI_LAYER,
    ...layer,
    annotations: {
      [`${PREFIX}acceleration-layer`]: 'yes',
      [`${PREFIX}blob-digest`]: layer.digest,
      ...(fsType === undefined ? {} : { [`${PREFIX}blob-fs-type`]: fsType }),
      [`${PREFIX}blob-size`]: String(layer.size),
      [`${PREFIX}version`]: '0.1.0',
    },
  };
  const config = await push(configWith(image.config, layer.digest, below.length, createdBy));
  const bytes = Buffer.from(
    JSON.stringify({
      ...manifest,
      mediaType: manifestType,
      config: { ...manifest.config, ...config },
      layers: [...below, descriptor],
    }),
  );
  const pushed = await target.pushManifest(bytes, manifestType, read);
  await target.tag(pushed, read);
  return pushed;
}

interface ConfigJson {
  rootfs: { diff_ids: string[] };
  history?: { comment?: string; empty_layer?: boolean }[] | null;
}

/** How the history tells a trace's layer from others. */
const COMMENT = 'acceleration layer';

/** The configuration with the trace's layer on top of `below` layers; everything else stays as it was. */
function configWith(bytes: Uint8Array, diffId: string, below: number, createdBy: string): Uint8Array {
  const json = JSON.parse(Buffer.from(bytes).toString('utf8')) as ConfigJson;
  json.rootfs = { ...json.rootfs, diff_ids: [...json.rootfs.diff_ids.slice(0, below), diffId] };
  // No date: the same trace makes the same image.
  const entry = { created_by: createdBy, comment: COMMENT };
  json.history = [...(json.history ?? []).filter(({ comment }) => comment !== COMMENT), entry];
  return Buffer.from(JSON.stringify(json));
}
