/** From what the user wrote to a source or a target. */
import { ConfigError, RegistryError, type ReadOptions } from '../blob/index.js';
import { parseReference, type RegistryClient } from '../registryblob/index.js';
import type { ImageDocument, ImageSource, ImageTarget } from './image-store.js';
import { LayoutImage } from './layout-image.js';
import { hostPlatform, selectPlatform, type WantedPlatform } from './platform.js';
import { RegistryImage } from './registry-image.js';

/** A name with its kind. */
export type ImageName =
  | { readonly kind: 'docker'; readonly reference: string }
  | { readonly kind: 'oci'; readonly directory: string; readonly tag: string | undefined };

/**
 * Parses `docker://REFERENCE`, `oci:DIRECTORY[:TAG]`, or a bare reference.
 * @throws ConfigError OBD_CONFIG_VALUE for other kinds, naming those that there are.
 */
export function parseImageName(text: string): ImageName {
  if (text.startsWith('docker://')) return { kind: 'docker', reference: text.slice('docker://'.length) };
  if (text.startsWith('oci:')) {
    const rest = text.slice('oci:'.length);
    const colon = rest.indexOf(':');
    const directory = colon < 0 ? rest : rest.slice(0, colon);
    const tag = colon < 0 ? undefined : rest.slice(colon + 1);
    if (directory === '' || tag === '')
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot parse image name "${text}": expected oci:DIRECTORY[:TAG]`,
        { source: text },
      );
    return { kind: 'oci', directory, tag };
  }
  const scheme = /^([a-z][a-z-]*):(\/\/)?[^0-9]/.exec(text);
  const known = [
    'oci-archive',
    'docker-archive',
    'docker-daemon',
    'containers-storage',
    'containerd',
    'dir',
    'http',
    'https',
  ];
  if (scheme?.[1] !== undefined && known.includes(scheme[1]))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot use image name "${text}": "${scheme[1]}:" is not supported`,
      {
        source: text,
        hint: 'Supported are docker://HOST/REPOSITORY:TAG and oci:DIRECTORY[:TAG]',
      },
    );
  return { kind: 'docker', reference: text };
}

/** An image to read. The client stays the caller's. Opens nothing yet. @throws ConfigError */
export function openImageSource(name: string, client: RegistryClient): ImageSource {
  return openImage(name, client);
}

/** An image to write. The client stays the caller's. Creates nothing yet. @throws ConfigError */
export function openImageTarget(name: string, client: RegistryClient): ImageTarget {
  return openImage(name, client);
}

function openImage(name: string, client: RegistryClient): LayoutImage | RegistryImage {
  const parsed = parseImageName(name);
  return parsed.kind === 'oci'
    ? new LayoutImage(parsed.directory, parsed.tag)
    : new RegistryImage(client, parseReference(parsed.reference));
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
