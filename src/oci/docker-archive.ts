/**
 * `docker-archive:FILE[:REFERENCE]`: what `docker save` and its like write, to read.
 *
 *   manifest.json   [{Config, RepoTags, Layers}], paths of members       since Docker 1.10
 *   repositories    {repository: {tag: id}}, with id/json, id/layer.tar   before (docker-legacy.ts)
 *
 * Neither has a manifest in the sense of a registry: one is made up from what there is. Plain layers have the digest that
 * the configuration gives them, so that reading them checks it; packed ones are digested once.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { ConfigError, MemoryBlob, RegistryError, type ReadableBlob } from '../blob/index.js';
import { parseReference, formatReference } from '../registryblob/index.js';
import { packedBy, type ArchiveFile } from './archive-file.js';
import { ArchiveImage } from './archive-image.js';
import { digestOf } from './digest.js';
import { legacyImages } from './docker-legacy.js';
import { parseDocument } from './document.js';
import type { ImageDocument } from './image-store.js';
import {
  MAX_CONFIG_SIZE,
  MAX_MANIFEST_SIZE,
  MediaType,
  parseImageConfig,
  type Descriptor,
} from './manifest.js';
import { checkSize } from './stored-image.js';

/** An image of the archive: where its configuration and its layers are. */
export interface SavedImage {
  readonly tags: readonly string[];
  readonly config: () => Promise<Uint8Array>;
  readonly layers: readonly string[];
}

const manifestSchema = z
  .array(
    z.looseObject({
      Config: z.string().max(4096),
      RepoTags: z.array(z.string().max(600)).max(10_000).nullish(),
      Layers: z.array(z.string().max(4096)).max(4096).nullish(),
    }),
  )
  .max(10_000);
const STEP = 1024 * 1024;

/** See the head of this file. */
export class DockerArchiveSource extends ArchiveImage {
  readonly name: string;
  readonly #reference: string | undefined;
  readonly #members = new Map<string, () => ReadableBlob>();
  #document: Promise<ImageDocument> | undefined;

  /** @param reference which image, if there are several: a tag of it, or `@0` for the first. */
  constructor(path: string, reference: string | undefined, workDir?: string) {
    super(path, workDir);
    this.#reference = reference;
    this.name = `docker-archive:${path}${reference === undefined ? '' : `:${reference}`}`;
  }

  async resolve(): Promise<ImageDocument> {
    this.#document ??= this.#describe();
    return this.#document;
  }

  async openBlob(descriptor: Descriptor): Promise<ReadableBlob> {
    await this.resolve();
    const open = this.#members.get(descriptor.digest);
    if (open === undefined)
      throw new RegistryError(
        'OBD_REGISTRY_NOT_FOUND',
        `Cannot find blob "${descriptor.digest}" in "${this.name}"`,
        { source: this.name },
      );
    return checkSize(open(), descriptor, this.name);
  }

  async #describe(): Promise<ImageDocument> {
    const archive = await this.archive();
    const image = this.#choose(await this.#images(archive));
    const configBytes = await image.config();
    const config = parseImageConfig(configBytes, this.name);
    const diffIds = config.rootfs.diff_ids;
    if (diffIds.length !== image.layers.length)
      throw this.#bad(`its configuration names ${diffIds.length} layers, the archive ${image.layers.length}`);
    const configDigest = digestOf(configBytes);
    this.#members.set(configDigest, () => new MemoryBlob(configBytes, this.name));
    const layers: Descriptor[] = [];
    for (const [i, path] of image.layers.entries())
      layers.push(await this.#layer(archive, path, diffIds[i] ?? ''));
    const bytes = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MediaType.DOCKER_MANIFEST,
        config: {
          mediaType: MediaType.DOCKER_CONFIG,
          digest: configDigest,
          size: configBytes.byteLength,
        },
        layers,
      }),
    );
    return parseDocument(bytes, MediaType.DOCKER_MANIFEST, this.name);
  }

  async #layer(archive: ArchiveFile, path: string, diffId: string): Promise<Descriptor> {
    const member = archive.member(path);
    const head = new Uint8Array(Math.min(4, member.size));
    await member.read(0, head);
    const packed = packedBy(head);
    if (packed !== undefined && packed !== 'gzip' && packed !== 'zstd')
      throw this.#bad(`layer "${path}" is packed with ${packed}, expected a tar, gzip or zstd`);
    const named = /^blobs\/(sha256)\/([0-9a-f]{64})$/.exec(path);
    const digest =
      packed === undefined
        ? diffId
        : named !== null
          ? `${named[1] ?? ''}:${named[2] ?? ''}`
          : await digestOfBlob(member);
    this.#members.set(digest, () => archive.member(path));
    const mediaType =
      packed === undefined
        ? MediaType.DOCKER_LAYER
        : packed === 'gzip'
          ? MediaType.DOCKER_LAYER_GZIP
          : MediaType.OCI_LAYER_ZSTD;
    return { mediaType, digest, size: member.size };
  }

  async #images(archive: ArchiveFile): Promise<readonly SavedImage[]> {
    if (archive.has('manifest.json')) {
      const bytes = await archive.read('manifest.json', MAX_MANIFEST_SIZE);
      const parsed = manifestSchema.safeParse(parseJson(bytes, `${this.path}(manifest.json)`));
      if (!parsed.success) throw this.#bad(`its manifest.json is none: ${z.prettifyError(parsed.error)}`);
      return parsed.data.map((image) => ({
        tags: image.RepoTags ?? [],
        config: () => archive.read(image.Config, MAX_CONFIG_SIZE),
        layers: image.Layers ?? [],
      }));
    }
    if (archive.has('repositories')) return legacyImages(archive);
    throw new ConfigError(
      'OBD_CONFIG_NOT_FOUND',
      `Cannot open "${this.name}": neither manifest.json nor repositories in the archive`,
      {
        source: this.path,
        hint: archive.has('index.json')
          ? 'It is an OCI image layout: oci-archive:FILE'
          : 'Expected what docker save writes',
      },
    );
  }

  #choose(images: readonly SavedImage[]): SavedImage {
    const wanted = this.#reference;
    const has = `It has ${
      images
        .map((image, i) => image.tags[0] ?? `@${i}`)
        .slice(0, 20)
        .join(', ') || 'no images'
    }`;
    if (wanted === undefined) {
      const [only] = images;
      if (only !== undefined && images.length === 1) return only;
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot choose an image of "${this.name}": it holds ${images.length}`,
        { source: this.path, hint: `${has}; write docker-archive:FILE:REFERENCE` },
      );
    }
    const number = /^@(\d{1,4})$/.exec(wanted)?.[1];
    const found =
      number !== undefined
        ? images[Number(number)]
        : images.find((image) => image.tags.some((tag) => sameReference(tag, wanted)));
    if (found !== undefined) return found;
    throw new RegistryError('OBD_REGISTRY_NOT_FOUND', `Cannot find "${wanted}" in "${this.path}"`, {
      source: this.name,
      hint: has,
    });
  }

  #bad(problem: string): RegistryError {
    return new RegistryError('OBD_REGISTRY_RESPONSE', `Cannot read "${this.name}": ${problem}`, {
      source: this.path,
    });
  }
}

/** @throws RegistryError OBD_REGISTRY_RESPONSE */
export function parseJson(bytes: Uint8Array, source: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new RegistryError('OBD_REGISTRY_RESPONSE', `Cannot read "${source}": not valid JSON`, {
      source,
      cause: error,
    });
  }
}

/** `debian:12` is `docker.io/library/debian:12`. */
function sameReference(a: string, b: string): boolean {
  if (a === b) return true;
  try {
    return formatReference(parseReference(a)) === formatReference(parseReference(b));
  } catch {
    return false;
  }
}

/** sha256 digest of all of a blob. */
export async function digestOfBlob(blob: ReadableBlob): Promise<string> {
  const hash = createHash('sha256');
  for (let at = 0; at < blob.size; at += STEP) {
    const chunk = new Uint8Array(Math.min(STEP, blob.size - at));
    await blob.read(at, chunk);
    hash.update(chunk);
  }
  return `sha256:${hash.digest('hex')}`;
}
