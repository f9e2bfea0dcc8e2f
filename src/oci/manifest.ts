/**
 * Image documents of the OCI image specification 1.1 and of Docker's schema 2: descriptors, manifests, indexes and
 * configurations. What arrives from outside is validated once, here; unknown keys are kept, because an image that is
 * copied or converted must not lose what others wrote into it.
 */
import { z } from 'zod';
import { RegistryError } from '../blob/index.js';

/** Media types that we read and write. */
export const MediaType = {
  OCI_MANIFEST: 'application/vnd.oci.image.manifest.v1+json',
  OCI_INDEX: 'application/vnd.oci.image.index.v1+json',
  OCI_CONFIG: 'application/vnd.oci.image.config.v1+json',
  OCI_LAYER: 'application/vnd.oci.image.layer.v1.tar',
  OCI_LAYER_GZIP: 'application/vnd.oci.image.layer.v1.tar+gzip',
  OCI_LAYER_ZSTD: 'application/vnd.oci.image.layer.v1.tar+zstd',
  OCI_EMPTY: 'application/vnd.oci.empty.v1+json',
  DOCKER_MANIFEST: 'application/vnd.docker.distribution.manifest.v2+json',
  DOCKER_INDEX: 'application/vnd.docker.distribution.manifest.list.v2+json',
  DOCKER_CONFIG: 'application/vnd.docker.container.image.v1+json',
  DOCKER_LAYER: 'application/vnd.docker.image.rootfs.diff.tar',
  DOCKER_LAYER_GZIP: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
} as const;

/** Most bytes of a manifest or index: what registries accept. */
export const MAX_MANIFEST_SIZE = 4 * 1024 * 1024;
/** Most bytes of an image configuration. */
export const MAX_CONFIG_SIZE = 8 * 1024 * 1024;

/** True for a manifest list of either family. */
export function isIndexType(mediaType: string): boolean {
  return mediaType === MediaType.OCI_INDEX || mediaType === MediaType.DOCKER_INDEX;
}

/** True for a single image's manifest of either family. */
export function isManifestType(mediaType: string): boolean {
  return mediaType === MediaType.OCI_MANIFEST || mediaType === MediaType.DOCKER_MANIFEST;
}

const digestSchema = z
  .string()
  .regex(/^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/, 'expected sha256:<64 hex> or sha512:<128 hex>');
const sizeSchema = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const annotationsSchema = z.record(z.string(), z.string());

const platformSchema = z.looseObject({
  os: z.string(),
  architecture: z.string(),
  variant: z.string().optional(),
  'os.version': z.string().optional(),
  'os.features': z.array(z.string()).optional(),
});

/** Some producers write `null` for what is absent. */
function withoutNulls(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== null));
}

const descriptorSchema = z.preprocess(
  withoutNulls,
  z.looseObject({
    mediaType: z.string(),
    digest: digestSchema,
    size: sizeSchema,
    annotations: annotationsSchema.optional(),
    platform: platformSchema.optional(),
    artifactType: z.string().optional(),
    urls: z.array(z.string()).optional(),
  }),
);

const manifestSchema = z.preprocess(
  withoutNulls,
  z.looseObject({
    schemaVersion: z.literal(2),
    mediaType: z.string().optional(),
    artifactType: z.string().optional(),
    config: descriptorSchema,
    // 4 MiB hold no more than this; the bound is against a document of a million empty objects.
    layers: z.array(descriptorSchema).max(4096),
    subject: descriptorSchema.optional(),
    annotations: annotationsSchema.optional(),
  }),
);

const indexSchema = z.preprocess(
  withoutNulls,
  z.looseObject({
    schemaVersion: z.literal(2),
    mediaType: z.string().optional(),
    artifactType: z.string().optional(),
    manifests: z.array(descriptorSchema).max(16_384),
    subject: descriptorSchema.optional(),
    annotations: annotationsSchema.optional(),
  }),
);

const configSchema = z.looseObject({
  os: z.string().optional(),
  architecture: z.string().optional(),
  variant: z.string().optional(),
  config: z.looseObject({}).nullish(),
  rootfs: z.looseObject({ type: z.string(), diff_ids: z.array(digestSchema).max(4096) }),
  history: z.array(z.looseObject({ empty_layer: z.boolean().optional() })).nullish(),
});

/** The machine an image is for. */
export type Platform = z.infer<typeof platformSchema>;
/** Names content: type, digest, size, and what others say about it. */
export type Descriptor = z.infer<typeof descriptorSchema>;
/** One image: its configuration and its layers, lowest first. */
export type Manifest = z.infer<typeof manifestSchema>;
/** Several manifests under one name. */
export type Index = z.infer<typeof indexSchema>;
/** The configuration an image is started with. */
export type ImageConfig = z.infer<typeof configSchema>;

function parseWith<T>(schema: z.ZodType<T>, bytes: Uint8Array, what: string, source: string): T {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new RegistryError('OBD_REGISTRY_RESPONSE', `Cannot read ${what} "${source}": not valid JSON`, {
      source,
      cause: error,
    });
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue === undefined || issue.path.length === 0 ? 'the document' : issue.path.join('.');
  throw new RegistryError(
    'OBD_REGISTRY_RESPONSE',
    `Cannot read ${what} "${source}": ${where}: ${issue?.message ?? 'invalid'}`,
    { source },
  );
}

/** Parses a single image's manifest. @throws RegistryError OBD_REGISTRY_RESPONSE that names the wrong key. */
export function parseManifest(bytes: Uint8Array, source: string): Manifest {
  return parseWith(manifestSchema, bytes, 'image manifest', source);
}

/** Parses an image index or manifest list. @throws RegistryError OBD_REGISTRY_RESPONSE */
export function parseIndex(bytes: Uint8Array, source: string): Index {
  return parseWith(indexSchema, bytes, 'image index', source);
}

/** Parses an image configuration. @throws RegistryError OBD_REGISTRY_RESPONSE */
export function parseImageConfig(bytes: Uint8Array, source: string): ImageConfig {
  return parseWith(configSchema, bytes, 'image configuration', source);
}

/** True if the text is a digest that we can check (sha256, sha512). */
export function isDigest(text: string): boolean {
  return digestSchema.safeParse(text).success;
}
