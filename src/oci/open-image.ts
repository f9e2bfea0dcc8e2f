/** From what the user wrote to a source or a target. */
import { ConfigError, RegistryError, type ReadOptions } from '../blob/index.js';
import { parseReference, type RegistryClient } from '../registryblob/index.js';
import { OciArchiveSource } from './archive-image.js';
import { ArchiveTarget } from './archive-target.js';
import { DockerArchiveSource } from './docker-archive.js';
import type { ImageDocument, ImageSource, ImageTarget } from './image-store.js';
import { LayoutImage } from './layout-image.js';
import { hostPlatform, selectPlatform, type WantedPlatform } from './platform.js';
import { RegistryImage } from './registry-image.js';

/** A name with its kind. */
export type ImageName =
  | { readonly kind: 'docker'; readonly reference: string }
  | { readonly kind: 'oci'; readonly directory: string; readonly tag: string | undefined }
  | {
      readonly kind: 'oci-archive' | 'docker-archive';
      readonly path: string;
      /** Tag of an OCI archive, reference of a Docker archive. */
      readonly tag: string | undefined;
    }
  | { readonly kind: 'containerd'; readonly image: string };

/** Opens images of kinds that this room does not know itself. */
export interface ImageOpeners {
  /** For `containerd:NAME`. Without it the name is refused. */
  readonly containerd?: (image: string) => ImageSource & ImageTarget;
}

/** How sources are opened. */
export interface SourceOptions extends ImageOpeners {
  /** Where an archive that is packed as a whole is unpacked; default: the directory for temporary files. */
  readonly workDir?: string;
}

/** How targets are opened. */
export interface TargetOptions extends ImageOpeners {
  /** An archive may take the place of a file. */
  readonly replace?: boolean;
}

/** Kinds that lie in files: `KIND:PATH[:TAG]`, and how the parts are called. */
const FILE_KINDS = {
  oci: 'oci:DIRECTORY[:TAG]',
  'oci-archive': 'oci-archive:FILE[:TAG]',
  'docker-archive': 'docker-archive:FILE[:REFERENCE]',
} as const;

const CONTAINERD = 'containerd:';

/** Kinds that others know. Taken for a reference, they would lead to a strange error. */
const UNSUPPORTED = ['docker-daemon', 'containers-storage', 'dir', 'http', 'https'];

/**
 * Parses `docker://REFERENCE`, `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:REFERENCE]`,
 * `containerd:NAME`, or a bare reference.
 * @throws ConfigError OBD_CONFIG_VALUE for other kinds, naming those that there are.
 */
export function parseImageName(text: string): ImageName {
  if (text.startsWith('docker://')) return { kind: 'docker', reference: text.slice('docker://'.length) };
  if (text.startsWith(CONTAINERD)) {
    const image = text.slice(CONTAINERD.length).replace(/^\/\//, '');
    if (image === '')
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot parse image name "${text}": expected containerd:NAME`,
        { source: text },
      );
    return { kind: 'containerd', image };
  }
  for (const [kind, form] of Object.entries(FILE_KINDS) as [keyof typeof FILE_KINDS, string][]) {
    if (!text.startsWith(`${kind}:`)) continue;
    const rest = text.slice(kind.length + 1);
    const colon = rest.indexOf(':');
    const path = colon < 0 ? rest : rest.slice(0, colon);
    const tag = colon < 0 ? undefined : rest.slice(colon + 1);
    if (path === '' || tag === '')
      throw new ConfigError('OBD_CONFIG_VALUE', `Cannot parse image name "${text}": expected ${form}`, {
        source: text,
      });
    return kind === 'oci' ? { kind, directory: path, tag } : { kind, path, tag };
  }
  const scheme = /^([a-z][a-z-]*):(\/\/)?[^0-9]/.exec(text);
  if (scheme?.[1] !== undefined && UNSUPPORTED.includes(scheme[1]))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot use image name "${text}": "${scheme[1]}:" is not supported`,
      {
        source: text,
        hint: `Supported are docker://HOST/REPOSITORY:TAG, ${Object.values(FILE_KINDS).join(', ')}, containerd:NAME`,
      },
    );
  return { kind: 'docker', reference: text };
}

/** An image to read. The client stays the caller's. Opens nothing yet. @throws ConfigError */
export function openImageSource(
  name: string,
  client: RegistryClient,
  openers: SourceOptions = {},
): ImageSource {
  const parsed = parseImageName(name);
  switch (parsed.kind) {
    case 'docker':
      return new RegistryImage(client, parseReference(parsed.reference));
    case 'oci':
      return new LayoutImage(parsed.directory, parsed.tag);
    case 'oci-archive':
      return new OciArchiveSource(parsed.path, parsed.tag, openers.workDir);
    case 'docker-archive':
      return new DockerArchiveSource(parsed.path, parsed.tag, openers.workDir);
    case 'containerd':
      return openContainerd(parsed.image, openers);
  }
}

/** An image to write. The client stays the caller's. Creates nothing yet. @throws ConfigError */
export function openImageTarget(
  name: string,
  client: RegistryClient,
  options: TargetOptions = {},
): ImageTarget {
  const parsed = parseImageName(name);
  switch (parsed.kind) {
    case 'docker':
      return new RegistryImage(client, parseReference(parsed.reference));
    case 'oci':
      return new LayoutImage(parsed.directory, parsed.tag);
    case 'oci-archive':
    case 'docker-archive':
      return new ArchiveTarget({
        kind: parsed.kind,
        path: parsed.path,
        ...(parsed.tag !== undefined && { tag: parsed.tag }),
        ...(options.replace !== undefined && { replace: options.replace }),
      });
    case 'containerd':
      return openContainerd(parsed.image, options);
  }
}

function openContainerd(image: string, { containerd }: ImageOpeners): ImageSource & ImageTarget {
  if (containerd !== undefined) return containerd(image);
  throw new ConfigError('OBD_CONFIG_VALUE', `Cannot use "${CONTAINERD}${image}": not with this command`, {
    source: `${CONTAINERD}${image}`,
    hint: `Copy it to a layout first: ctr image export image.tar ${image}; then use oci-archive:image.tar`,
  });
}

/**
 * The manifest of one platform: what the name points to, or the entry of that index (of an index in it, once more).
 * @param platform default: Linux on this machine's architecture.
 */
export async function resolveManifest(
  source: ImageSource,
  platform: WantedPlatform = hostPlatform(),
  options: ReadOptions = {},
): Promise<Extract<ImageDocument, { kind: 'manifest' }>> {
  let document = await source.resolve(options);
  for (let depth = 0; document.kind === 'index'; depth++) {
    // An index may hold indexes; nobody nests them deeper than this.
    if (depth === 3)
      throw new RegistryError(
        'OBD_REGISTRY_RESPONSE',
        `Cannot read "${source.name}": indexes within indexes`,
        { source: source.name },
      );
    document = await source.document(selectPlatform(document.index, platform, source.name), options);
  }
  return document;
}
