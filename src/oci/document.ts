/** Bytes that claim to be a manifest or an index. */
import { RegistryError } from '../blob/index.js';
import { digestOf } from './digest.js';
import type { ImageDocument } from './image-store.js';
import {
  isIndexType,
  isManifestType,
  MediaType,
  parseIndex,
  parseManifest,
  type Descriptor,
} from './manifest.js';

/** Media type by what the document looks like, for stores and servers that do not say. */
function guessType(bytes: Uint8Array): string | undefined {
  try {
    const json = JSON.parse(Buffer.from(bytes).toString('utf8')) as Record<string, unknown>;
    if (typeof json['mediaType'] === 'string') return json['mediaType'];
    if (json['schemaVersion'] === 1) return 'application/vnd.docker.distribution.manifest.v1+json';
    if (Array.isArray(json['manifests'])) return MediaType.OCI_INDEX;
    if (Array.isArray(json['layers']) && typeof json['config'] === 'object') return MediaType.OCI_MANIFEST;
  } catch {
    // The parser will say what is wrong.
  }
  return undefined;
}

/**
 * Parses a manifest or index whose digest has been checked or is being defined by these bytes.
 * @param mediaType what the server or descriptor says; other types are replaced by what the document says itself.
 * @throws RegistryError OBD_REGISTRY_RESPONSE
 */
export function parseDocument(
  bytes: Uint8Array,
  mediaType: string | undefined,
  source: string,
  known?: Descriptor,
): ImageDocument {
  const said = mediaType?.split(';')[0]?.trim().toLowerCase() ?? '';
  const type = isIndexType(said) || isManifestType(said) ? said : (guessType(bytes) ?? said);
  const digest = known?.digest ?? digestOf(bytes);
  const descriptor: Descriptor = { ...known, mediaType: type, digest, size: bytes.byteLength };
  if (isIndexType(type)) return { kind: 'index', descriptor, bytes, index: parseIndex(bytes, source) };
  if (isManifestType(type))
    return { kind: 'manifest', descriptor, bytes, manifest: parseManifest(bytes, source) };
  const old = type.includes('manifest.v1');
  throw new RegistryError(
    'OBD_REGISTRY_RESPONSE',
    `Cannot use "${source}": ${old ? 'Docker schema 1 manifests are not supported' : `media type "${type}" is no image manifest or index`}`,
    { source, actual: type, ...(old ? { hint: 'Push the image again with a current tool' } : {}) },
  );
}
