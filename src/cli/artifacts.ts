/** What a name on the command line stands for: one stored layer, or the layers of an image. */
import { open, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import {
  ConfigError,
  FileBlob,
  ioError,
  isSystemError,
  OverlaybdError,
  type ReadableBlob,
} from '../blob/index.js';
import { GzipBlob } from '../gzip/index.js';
import {
  hasUpper,
  loadImageConfig,
  locateLower,
  locateTarget,
  type ImageConfig,
  type LayerSource,
  type LowerConfig,
} from '../image/index.js';
import { makeLogger } from '../log/index.js';
import {
  openImageSource,
  type ImageOpeners,
  type ImageSource,
  parsePlatform,
  resolveManifest,
  type Descriptor,
  type WantedPlatform,
} from '../oci/index.js';
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
  return /^(docker:\/\/|oci:|oci-archive:|docker-archive:|containerd:)/.test(name);
}

/**
 * Finds what a name on the command line stands for: images (`docker://`, `oci:`, archives of both kinds, `containerd:`),
 * image configurations (JSON), layer files, and directories that hold a layer.
 * @param platform as the user wrote it.
 * @param openers without the one for `containerd:`, such names are refused.
 * @throws ConfigError that says what to write instead, IoError, RegistryError
 */
export async function findArtifacts(
  name: string,
  client: RegistryClient,
  platform: string | undefined,
  openers: ImageOpeners = {},
): Promise<Artifacts> {
  if (isImageName(name))
    return imageArtifacts(
      openImageSource(name, client, openers),
      platform === undefined ? undefined : parsePlatform(platform),
    );
  const file = await namedFile(name);
  return file.json ? configArtifacts(file.path, client) : fileArtifacts(file.path);
}

/**
 * Finds the layers of an image. Reads the manifest only.
 * @throws RegistryError, ConfigError
 */
async function imageArtifacts(source: ImageSource, platform?: WantedPlatform): Promise<Artifacts> {
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

/** The layers of an image's configuration. A layer that cannot be found fails when it is opened, not here. */
async function configArtifacts(path: string, client: RegistryClient): Promise<Artifacts> {
  const config = await loadImageConfig(path, makeLogger('warn'));
  const openSource = async (source: LayerSource): Promise<ReadableBlob> => {
    if (source.kind === 'file') return FileBlob.open(source.path);
    // The configuration's author wrote the scheme.
    if (source.url.startsWith('http://')) client.allowPlainHttp(new URL(source.url).host);
    return client.openBlob(source.url, source.size > 0 ? { size: source.size } : {});
  };
  const layers = config.lowers.map((lower, i): LayerArtifact => {
    const what = `layer ${i}`;
    const target = hasTarget(lower) ? async () => openTarget(lower, config, what, openSource) : undefined;
    return {
      name: lower.file || lower.digest || lower.dir,
      kind: config.accelerationLayer && i === config.lowers.length - 1 ? 'trace' : 'overlaybd',
      ...(lower.digest === '' ? {} : { digest: lower.digest }),
      ...(lower.size === 0 ? {} : { size: lower.size }),
      open: async () => openSource(await locateLower(lower, config, what)),
      ...(target === undefined ? {} : { openTarget: target }),
    };
  });
  const { data, index } = config.upper;
  return {
    name: path,
    kind: 'configuration',
    layers,
    ...(hasUpper(config) ? { upper: { data, index } } : {}),
  };
}

function hasTarget(lower: LowerConfig): boolean {
  return lower.targetFile !== '' || lower.targetDigest !== '';
}

/** The plain tar stream that a TurboOCI layer takes its data from. */
async function openTarget(
  lower: LowerConfig,
  config: ImageConfig,
  what: string,
  openSource: (source: LayerSource) => Promise<ReadableBlob>,
): Promise<ReadableBlob> {
  const source = locateTarget(lower, config, `target of ${what}`);
  if (source === undefined) throw new TypeError(`${what} has no target`);
  const stored = await openSource(source);
  if (lower.gzipIndex === '') return stored;
  let index: ReadableBlob | undefined;
  try {
    index = await FileBlob.open(lower.gzipIndex);
    return await GzipBlob.open(stored, index);
  } catch (error) {
    await Promise.allSettled([stored.close(), index?.close()]);
    if (!(error instanceof OverlaybdError)) throw error;
    throw new OverlaybdError(error.code, `Cannot open target "${stored.name}": ${error.message}`, {
      source: stored.name,
      cause: error,
    });
  }
}

/** What a file is, from its first byte. */
interface NamedFile {
  readonly path: string;
  readonly json: boolean;
}

/**
 * Finds the file that a path names; a directory stands for the layer in it.
 * @throws ConfigError with what to write instead, IoError
 */
async function namedFile(path: string): Promise<NamedFile> {
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
function fileArtifacts(path: string): Artifacts {
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
