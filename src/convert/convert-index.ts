/**
 * An index: each of its images is converted, attestations go along, and a new index says where what is.
 *
 *   linux/amd64  sha256:A   ─► converted ─►   linux/amd64  sha256:A'
 *   linux/arm64  sha256:B   ─► converted ─►   linux/arm64  sha256:B'
 *   attestation of A        ─► copied    ─►   attestation, vnd.docker.reference.digest: sha256:A'
 *   windows/amd64, others   ─► left out, with a warning
 */
import { abortedError, RegistryError, type ReadOptions } from '../blob/index.js';
import {
  formatPlatform,
  isAttestation,
  isIndexType,
  isManifestType,
  MediaType,
  selectPlatform,
  type Descriptor,
  type ImageDocument,
  type ImageSource,
  type ImageTarget,
  type Index,
  type WantedPlatform,
} from '../oci/index.js';
import { ARTIFACT_TYPE, subjectOf } from './new-manifest.js';
import { sumSizes, type ConvertedImage, type ConvertOptions } from './options.js';
import { badImage, readSourceImage, type SourceImage } from './source-image.js';

/** Real indexes have some ten images; each costs a conversion. */
const MAX_IMAGES = 256;
/** BuildKit's link from an attestation to what it is about. */
const REFERENCE_DIGEST = 'vnd.docker.reference.digest';

type IndexDocument = Extract<ImageDocument, { kind: 'index' }>;

type ConvertManifest = (
  source: ImageSource,
  target: ImageTarget,
  image: SourceImage,
  options: ConvertOptions,
) => Promise<ConvertedImage>;

/** An entry that will be converted. */
export interface IndexImage {
  readonly entry: Descriptor;
  readonly image: SourceImage;
}

/**
 * The images of an index that are wanted and can be converted; what is left out is warned of.
 * @throws ConvertError OBD_CONVERT_BAD_IMAGE if none is left, RegistryError if one that is named is missing.
 */
export async function imagesOf(
  source: ImageSource,
  { index }: IndexDocument,
  wanted: readonly WantedPlatform[] | 'all',
  options: Pick<ConvertOptions, 'warn'>,
  read: ReadOptions,
): Promise<IndexImage[]> {
  const chosen =
    wanted === 'all'
      ? undefined
      : new Set(wanted.map((platform) => selectPlatform(index, platform, source.name).digest));
  const images: IndexImage[] = [];
  for (const entry of index.manifests) {
    if (isAttestation(entry) || chosen?.has(entry.digest) === false) continue;
    const reason = unfit(entry);
    if (reason !== undefined) {
      options.warn?.(`${source.name}: ${describe(entry)} is left out: ${reason}`);
      continue;
    }
    if (images.length === MAX_IMAGES)
      throw badImage(
        source.name,
        `its index names more than ${MAX_IMAGES} images`,
        'Choose some: --platform A,B',
      );
    const document = await source.document(entry, read);
    if (document.kind !== 'manifest')
      throw new RegistryError(
        'OBD_REGISTRY_RESPONSE',
        `Cannot read "${source.name}": an index within an index`,
        {
          source: source.name,
          hint: 'Convert the inner one by its digest',
        },
      );
    images.push({ entry, image: await readSourceImage(source, document, read) });
  }
  if (images.length === 0)
    throw badImage(
      source.name,
      'its index names no image for linux',
      'Only images for Linux can be converted',
    );
  return images;
}

function describe(entry: Descriptor): string {
  return entry.platform === undefined ? entry.digest : formatPlatform(entry.platform);
}

/** Why an entry cannot be converted. */
function unfit({ mediaType, platform }: Descriptor): string | undefined {
  if (!isManifestType(mediaType) && !isIndexType(mediaType)) return `its media type is ${mediaType}`;
  if (platform !== undefined && platform.os !== 'linux') return `it is for ${platform.os}`;
  return undefined;
}

/** See the head of this file. @returns the new index, which is pushed but has no name yet. */
export async function convertIndex(
  source: ImageSource,
  target: ImageTarget,
  document: IndexDocument,
  wanted: readonly WantedPlatform[] | 'all',
  options: ConvertOptions,
  convertManifest: ConvertManifest,
): Promise<ConvertedImage> {
  if (target.singleImage === true)
    throw badImage(
      source.name,
      `several images do not fit into "${target.name}"`,
      'Choose one platform, or write to oci-archive:',
    );
  const read = options.signal === undefined ? {} : { signal: options.signal };
  const images = await imagesOf(source, document, wanted, options, read);
  const total = images.reduce((sum, { image }) => sum + sumSizes(image.manifest.layers), 0);
  let before = 0;
  // The same manifest may stand in the index for more than one platform.
  const converted = new Map<string, ConvertedImage>();
  const entries: Descriptor[] = [];
  for (const { entry, image } of images) {
    const start = before;
    const result =
      converted.get(entry.digest) ??
      (await convertManifest(source, target, image, {
        ...options,
        onProgress: (done) => {
          options.onProgress?.(start + done, total);
        },
      }));
    converted.set(entry.digest, result);
    before += sumSizes(image.manifest.layers);
    entries.push({
      ...result.descriptor,
      ...(options.referrer === true && { artifactType: ARTIFACT_TYPE }),
      ...(entry.platform && { platform: entry.platform }),
      ...(entry.annotations && { annotations: entry.annotations }),
    });
  }
  for (const entry of document.index.manifests) {
    const subject = converted.get(entry.annotations?.[REFERENCE_DIGEST] ?? '');
    if (!isAttestation(entry) || subject === undefined) continue;
    const copy = await copyManifest(source, target, entry, read);
    entries.push({
      ...copy,
      ...(entry.platform && { platform: entry.platform }),
      annotations: { ...entry.annotations, [REFERENCE_DIGEST]: subject.descriptor.digest },
    });
  }
  if (options.signal?.aborted === true) throw abortedError(`convert "${source.name}"`, options.signal);
  const { bytes, mediaType } = encodeIndex(document, entries, options);
  const descriptor = await target.pushManifest(bytes, mediaType, read);
  options.onEvent?.({ event: 'pushed', digest: descriptor.digest, mediaType, size: descriptor.size });
  const results = [...converted.values()];
  return {
    source: document.descriptor,
    descriptor,
    layers: results.flatMap(({ layers }) => layers),
    sourceSize: results.reduce((sum, { sourceSize }) => sum + sourceSize, 0),
    size: results.reduce((sum, { size }) => sum + size, 0),
    images: results,
  };
}

function encodeIndex(
  { descriptor, index }: IndexDocument,
  entries: readonly Descriptor[],
  options: ConvertOptions,
): { bytes: Uint8Array; mediaType: string } {
  const asSource = descriptor.mediaType === MediaType.DOCKER_INDEX ? 'docker' : 'oci';
  const family = options.referrer === true ? 'oci' : (options.mediaTypes ?? asSource);
  const mediaType = family === 'oci' ? MediaType.OCI_INDEX : MediaType.DOCKER_INDEX;
  const content: Omit<Index, 'manifests'> & { manifests: readonly Descriptor[] } = {
    schemaVersion: 2,
    mediaType,
    ...(options.referrer === true && { artifactType: ARTIFACT_TYPE }),
    manifests: entries,
    ...(options.referrer === true && subjectOf(descriptor)),
    ...(index.annotations && { annotations: index.annotations }),
  };
  return { bytes: Buffer.from(JSON.stringify(content)), mediaType };
}

/** A manifest with all it names, byte for byte. */
async function copyManifest(
  source: ImageSource,
  target: ImageTarget,
  entry: Descriptor,
  read: ReadOptions,
): Promise<Descriptor> {
  const document = await source.document(entry, read);
  if (document.kind !== 'manifest')
    throw new RegistryError('OBD_REGISTRY_RESPONSE', `Attestation ${entry.digest} is an index`, {
      source: source.name,
    });
  const { config, layers } = document.manifest;
  const mountFrom =
    source.place !== undefined && source.place.host === target.place?.host
      ? source.place.repository
      : undefined;
  for (const blob of [config, ...layers]) {
    const content = await source.openBlob(blob, read);
    try {
      await target.pushBlob(blob, content, { ...read, ...(mountFrom !== undefined && { mountFrom }) });
    } finally {
      await content.close();
    }
  }
  return target.pushManifest(document.bytes, document.descriptor.mediaType, read);
}
