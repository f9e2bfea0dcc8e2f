/** What a name on the command line stands for: one stored layer, or the layers of an image. */
import { open, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ConfigError, FileBlob, ioError, isSystemError, type ReadableBlob } from '../blob/index.js';
import { openImageSource, resolveManifest, type Descriptor, type WantedPlatform } from '../oci/index.js';
import type { RegistryClient } from '../registryblob/index.js';

/** Prefix of the annotations that say what a layer is. */
const PREFIX = 'containerd.io/snapshot/overlaybd/';

/** A stored layer, not yet open. */
export interface LayerArtifact {
  /** File or digest. */
  readonly name: string;
  /** `overlaybd`: can be looked into. `turbo`, `trace`, `ordinary`: only the blob as a whole means anything here. */
  readonly kind: 'overlaybd' | 'turbo' | 'trace' | 'ordinary';
  readonly descriptor?: Descriptor;
  /** What the blob must be, if something says so. */
  readonly digest?: string;
  readonly size?: number;
  /** The caller closes what it gets. */
  open(): Promise<ReadableBlob>;
  /** Opens the plain tar stream of a warp layer. */
  openTarget?(): Promise<ReadableBlob>;
}

/** The layers behind a name. */
export interface Artifacts {
  readonly name: string;
  readonly kind: 'file' | 'configuration' | 'image';
  /** Of an image: what its name led to. */
  readonly manifest?: Descriptor;
  /** Base first. */
  readonly layers: readonly LayerArtifact[];
  /** The writable layer of a configuration. */
  readonly upper?: { readonly data: string; readonly index: string };
}

/** True for names of images rather than of files. */
export function isImageName(name: string): boolean {
  return name.startsWith('docker://') || name.startsWith('oci:');
}

/**
 * Finds the layers of an image in a registry or an OCI layout. Reads the manifest only.
 * @throws RegistryError, ConfigError
 */
export async function imageArtifacts(
  name: string,
  client: RegistryClient,
  platform?: WantedPlatform,
): Promise<Artifacts> {
  const source = openImageSource(name, client);
  const { manifest, descriptor } = await resolveManifest(source, platform);
  return {
    name: source.name,
    kind: 'image',
    manifest: descriptor,
    layers: manifest.layers.map((layer) => ({
      name: layer.digest,
      kind: kindOf(layer),
      descriptor: layer,
      digest: layer.digest,
      size: layer.size,
      open: () => source.openBlob(layer),
    })),
  };
}

function kindOf(layer: Descriptor): LayerArtifact['kind'] {
  const annotations = layer.annotations ?? {};
  const has = (key: string): boolean => annotations[PREFIX + key] !== undefined;
  if (has('turbo-oci/target-digest') || has('fastoci/target-digest')) return 'turbo';
  if (annotations[`${PREFIX}acceleration-layer`] === 'yes') return 'trace';
  return has('version') || has('blob-digest') ? 'overlaybd' : 'ordinary';
}

/** What a file is, from its first byte. */
export interface NamedFile {
  readonly path: string;
  readonly json: boolean;
}

/**
 * Finds the file that a path names; a directory stands for the layer in it.
 * @throws ConfigError with what to write instead, IoError
 */
export async function namedFile(path: string): Promise<NamedFile> {
  const file = await layerIn(path);
  try {
    const handle = await open(file, 'r');
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(64), 0, 64, 0);
      return { path: file, json: buffer.toString('latin1', 0, bytesRead).trimStart().startsWith('{') };
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw ioError(error, `open "${file}"`, file);
  }
}

/** Names under which a layer's directory holds it, in the order in which the service looks. */
const LAYER_NAMES = ['overlaybd.commit', '.commit', 'overlaybd.sealed'];

async function layerIn(path: string): Promise<string> {
  const kind = await kindOfPath(path);
  if (kind === undefined)
    throw new ConfigError('OBD_CONFIG_NOT_FOUND', `Cannot find "${path}": no such file`, {
      source: path,
      hint: 'Images are named docker://HOST/REPOSITORY:TAG or oci:DIRECTORY[:TAG]',
    });
  if (kind === 'file') return path;
  for (const name of LAYER_NAMES)
    if ((await kindOfPath(join(path, name))) === 'file') return join(path, name);
  const layout = (await kindOfPath(join(path, 'oci-layout'))) === 'file';
  throw new ConfigError(
    'OBD_CONFIG_VALUE',
    `Cannot use "${path}": it is a directory without ${LAYER_NAMES.join(', ')}`,
    {
      source: path,
      hint: layout
        ? `For the image in this layout write oci:${path}`
        : 'Name a layer file or a configuration',
    },
  );
}

async function kindOfPath(path: string): Promise<'file' | 'directory' | undefined> {
  try {
    return (await stat(path)).isDirectory() ? 'directory' : 'file';
  } catch (error) {
    if (isSystemError(error) && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return undefined;
    throw ioError(error, `open "${path}"`, path);
  }
}

/** One layer file. Its digest is known if it lies where content-addressed stores put it, `.../sha256/<digits>`. */
export function fileArtifacts(path: string): Artifacts {
  const digest = digestOfPath(path);
  return {
    name: path,
    kind: 'file',
    layers: [
      {
        name: path,
        kind: 'overlaybd',
        ...(digest === undefined ? {} : { digest }),
        open: () => FileBlob.open(path),
      },
    ],
  };
}

function digestOfPath(path: string): string | undefined {
  const algorithm = basename(dirname(path));
  const digits = basename(path);
  const length = { sha256: 64, sha512: 128 }[algorithm];
  return length !== undefined && digits.length === length && /^[0-9a-f]+$/.test(digits)
    ? `${algorithm}:${digits}`
    : undefined;
}
