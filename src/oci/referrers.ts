/** Who refers to a manifest (distribution specification 1.1): what a client keeps up where the registry does not. */
import { MAX_MANIFEST_SIZE, MediaType, type Descriptor, type Index } from './manifest.js';

interface Referring {
  readonly subject?: { readonly digest?: unknown } | null;
  readonly artifactType?: unknown;
  readonly config?: { readonly mediaType?: unknown } | null;
  readonly annotations?: Readonly<Record<string, string>> | null;
}

/** Digest of what a manifest or index refers to. @param bytes JSON */
export function subjectOf(bytes: Uint8Array): string | undefined {
  const digest = (JSON.parse(Buffer.from(bytes).toString('utf8')) as Referring).subject?.digest;
  return typeof digest === 'string' ? digest : undefined;
}

/**
 * The index of referrers with one more. The oldest go when it would be larger than registries take.
 * @returns its bytes; undefined if the referrer is in it already.
 */
export function addReferrer(
  index: Index | undefined,
  bytes: Uint8Array,
  { mediaType, digest, size }: Descriptor,
): Uint8Array | undefined {
  if (index?.manifests.some((entry) => entry.digest === digest) === true) return undefined;
  const { artifactType, config, annotations } = JSON.parse(Buffer.from(bytes).toString('utf8')) as Referring;
  const type = artifactType ?? config?.mediaType;
  const entry = {
    mediaType,
    digest,
    size,
    ...(typeof type === 'string' && { artifactType: type }),
    ...(annotations && { annotations }),
  };
  const manifests: Descriptor[] = [...(index?.manifests ?? []), entry];
  for (;;) {
    const all = { ...index, schemaVersion: 2, mediaType: MediaType.OCI_INDEX, manifests };
    const encoded = Buffer.from(JSON.stringify(all));
    if (encoded.byteLength <= MAX_MANIFEST_SIZE || manifests.length === 1) return encoded;
    manifests.shift();
  }
}
