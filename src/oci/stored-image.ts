/** What all sources have in common whose blobs lie in files: layouts, archives. */
import type { Readable } from 'node:stream';
import { ConfigError, RegistryError, type ReadableBlob, type ReadOptions } from '../blob/index.js';
import { verifiedStream } from './digest.js';
import { parseDocument } from './document.js';
import type { ImageDocument, ImageSource } from './image-store.js';
import { MAX_MANIFEST_SIZE, type Descriptor, type Index } from './manifest.js';
import { readSmallBlob } from './read-blob.js';

/** Annotation of an entry of index.json that holds its tag. */
export const REF_NAME = 'org.opencontainers.image.ref.name';
/** Annotation with which containerd exports the whole name of an image. */
export const CONTAINERD_NAME = 'io.containerd.image.name';
const BLOCK = 1024 * 1024;

/** A source that knows how to open a blob; all else follows from that. */
export abstract class StoredImage implements ImageSource {
  abstract readonly name: string;
  abstract resolve(options?: ReadOptions): Promise<ImageDocument>;
  abstract openBlob(descriptor: Descriptor, options?: ReadOptions): Promise<ReadableBlob>;
  abstract close(): Promise<void>;

  async document(descriptor: Descriptor, options: ReadOptions = {}): Promise<ImageDocument> {
    const bytes = await this.readBlob(descriptor, { ...options, maxSize: MAX_MANIFEST_SIZE });
    return parseDocument(bytes, descriptor.mediaType, `${this.name}@${descriptor.digest}`, descriptor);
  }

  readBlob(
    descriptor: Descriptor,
    options: ReadOptions & { readonly maxSize?: number } = {},
  ): Promise<Uint8Array> {
    return readSmallBlob(this, descriptor, options);
  }

  async streamBlob(descriptor: Descriptor, options: ReadOptions = {}): Promise<Readable> {
    const blob = await this.openBlob(descriptor, options);
    async function* chunks(signal: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
      try {
        for (let at = 0; at < blob.size && !signal.aborted; at += BLOCK) {
          const chunk = Buffer.allocUnsafeSlow(Math.min(BLOCK, blob.size - at));
          await blob.read(at, chunk);
          yield chunk;
        }
      } finally {
        await blob.close();
      }
    }
    const stream = verifiedStream(descriptor, this.name, chunks, options);
    // A stream that is destroyed before its first read never gets to the generator.
    stream.once('close', () => void blob.close());
    return stream;
  }
}

/** @throws RegistryError OBD_REGISTRY_DIGEST if a blob is not as long as it should be. Closes it then. */
export async function checkSize(
  blob: ReadableBlob,
  descriptor: Descriptor,
  source: string,
): Promise<ReadableBlob> {
  if (blob.size === descriptor.size) return blob;
  await blob.close();
  throw new RegistryError(
    'OBD_REGISTRY_DIGEST',
    `Cannot use "${descriptor.digest}" from "${source}": it has ${blob.size} bytes, expected ${descriptor.size}`,
    {
      source,
      expected: descriptor.size,
      actual: blob.size,
    },
  );
}

/**
 * The image of an index.json that a tag means; without a tag, the only one there is.
 * @param source the name as the user wrote it. @param form how to name one of several, for the hint.
 */
export function chooseEntry(index: Index, tag: string | undefined, source: string, form: string): Descriptor {
  const { manifests } = index;
  const tags = manifests.map((entry) => entry.annotations?.[REF_NAME]);
  const has = `It has ${
    tags
      .map((name) => name ?? '(untagged)')
      .slice(0, 20)
      .join(', ') || 'no images'
  }`;
  if (tag === undefined) {
    const [only] = manifests;
    if (only !== undefined && manifests.length === 1) return only;
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot choose an image of "${source}": it holds ${manifests.length}`,
      {
        source,
        hint: `${has}; write ${form}`,
      },
    );
  }
  // Tools also write whole references as names (docker.io/library/debian:12).
  const found =
    manifests.find((entry) => entry.annotations?.[REF_NAME] === tag) ??
    manifests.find((entry) => entry.annotations?.[REF_NAME]?.endsWith(`:${tag}`) === true) ??
    manifests.find((entry) => entry.annotations?.[CONTAINERD_NAME] === tag) ??
    manifests.find((entry) => entry.digest === tag);
  if (found !== undefined) return found;
  throw new RegistryError('OBD_REGISTRY_NOT_FOUND', `Cannot find tag "${tag}" in "${source}"`, {
    source,
    hint: has,
  });
}
