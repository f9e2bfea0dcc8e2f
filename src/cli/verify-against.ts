/** `obd verify --against`: whether a converted image holds what the layers of its source say, entry by entry, byte by byte. */
import { open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import {
  abortedError,
  ConfigError,
  FileBlob,
  FormatError,
  ioError,
  isSystemError,
  localFileOf,
  type ReadableBlob,
} from '../blob/index.js';
import { unpackLayer } from '../ocilayer/index.js';
import { ImageOpener, loadServiceConfig, unwrapLayer } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { LayerStack, openSealedLayer, type SealedLayer } from '../lsmt/index.js';
import {
  openImageSource,
  parsePlatform,
  resolveManifest,
  type Descriptor,
  type ImageOpeners,
  type ImageSource,
} from '../oci/index.js';
import type { RegistryClient } from '../registryblob/index.js';
import { readTar } from '../tar/index.js';
import { compareTrees, DiskTree, LayerTree, type Comparison, type DifferenceKind } from '../verify/index.js';
import { findArtifacts, isImageName, type Artifacts, type LayerArtifact } from './artifacts.js';
import type { Progress } from './progress.js';
import { serviceConfigPath } from './service-config-path.js';

/** Differences that are kept to be told; the rest is counted. */
const KEPT = 1000;

/** How to compare two images. */
export interface AgainstOptions {
  readonly client: RegistryClient;
  /** For names of containerd's images. */
  readonly openers: ImageOpeners;
  /** Image with the layers that say what is right. */
  readonly source: string;
  /** Image, configuration or layer file that is looked at. */
  readonly target: string;
  /** Which image of an index, as the user wrote it. */
  readonly platform: string | undefined;
  /** Where work files go: the metadata of the file system, and layers of a target in a registry or an archive. */
  readonly workDir: string;
  readonly ignore: ReadonlySet<DifferenceKind>;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** A comparison and what it was of. */
export interface AgainstResult extends Comparison {
  /** Layers of the source, base first. */
  readonly layers: readonly Descriptor[];
  /** Entries of their archives. */
  readonly entries: number;
}

/** Compares. @throws whatever keeps one side from being read */
export async function verifyAgainst(options: AgainstOptions): Promise<AgainstResult> {
  const { client, openers, signal, workDir } = options;
  const source = openImageSource(options.source, client, openers);
  try {
    const { manifest } = await resolveManifest(
      source,
      options.platform === undefined ? undefined : parsePlatform(options.platform),
      { signal },
    );
    refuseConverted(manifest.layers, source.name);
    const artifacts = await findArtifacts(options.target, client, options.platform, openers);
    const tree = await readLayers(source, manifest.layers, options);
    const disk = await openDisk(artifacts, options);
    try {
      const found = await DiskTree.open(disk.blob, { workDir, signal });
      try {
        const comparison = await compareTrees(tree, found, { limit: KEPT, ignore: options.ignore });
        return { ...comparison, layers: manifest.layers, entries: tree.entries };
      } finally {
        await found.close();
      }
    } finally {
      await disk.close();
    }
  } finally {
    await source.close();
  }
}

function refuseConverted(layers: readonly Descriptor[], name: string): void {
  for (const { annotations = {}, digest } of layers)
    if (Object.keys(annotations).some((key) => key.startsWith('containerd.io/snapshot/overlaybd/')))
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot compare with "${name}": its layer ${digest} is an overlaybd layer, expected the image it was made from`,
        { source: name, hint: 'obd verify --against SOURCE CONVERTED' },
      );
}

async function readLayers(
  source: ImageSource,
  layers: readonly Descriptor[],
  { signal, progress }: AgainstOptions,
): Promise<LayerTree> {
  const tree = new LayerTree();
  const total = layers.reduce((sum, { size }) => sum + size, 0);
  let done = 0;
  for (const layer of layers) {
    const name = `${source.name}@${layer.digest}`;
    const blob = await source.streamBlob(layer, { signal });
    async function* counted(): AsyncGenerator<Uint8Array, void, undefined> {
      for await (const chunk of blob) {
        if (signal.aborted) throw abortedError(`read "${name}"`, signal);
        done += (chunk as Uint8Array).byteLength;
        progress.update(done, total);
        yield chunk as Uint8Array;
      }
    }
    try {
      await tree.apply(readTar(unpackLayer(counted(), name), name));
    } finally {
      blob.destroy();
    }
  }
  return tree;
}

interface OpenDisk {
  readonly blob: ReadableBlob;
  close(): Promise<void>;
}

async function openDisk(artifacts: Artifacts, options: AgainstOptions): Promise<OpenDisk> {
  if (artifacts.kind === 'configuration') return openConfiguration(options);
  const layers: SealedLayer[] = [];
  const close = async (): Promise<void> => {
    for (const layer of layers) await layer.close();
  };
  const target = isImageName(options.target)
    ? openImageSource(options.target, options.client, options.openers)
    : undefined;
  try {
    for (const [number, artifact] of artifacts.layers.entries()) {
      // What an image's own tools recorded lies on top and is not part of the disk.
      if (artifact.kind === 'trace' && number > 0 && number === artifacts.layers.length - 1) continue;
      if (artifact.kind !== 'overlaybd') throw refusal(artifacts.name, number, artifact);
      const stored = await openLayer(artifact, target, options);
      try {
        layers.push(await openSealedLayer((await unwrapLayer(stored)).blob));
      } catch (error) {
        await stored.close();
        throw error;
      }
    }
    return { blob: new LayerStack(layers.slice()), close };
  } catch (error) {
    await close();
    throw error;
  } finally {
    await target?.close();
  }
}

async function openConfiguration({ target, signal }: AgainstOptions): Promise<OpenDisk> {
  const log = makeLogger('warn');
  const opener = new ImageOpener(await loadServiceConfig(await serviceConfigPath(), log), log);
  try {
    const image = await opener.open(target, { mode: 'read', signal });
    return {
      blob: image.blob,
      close: async () => {
        await image.close();
        await opener.close();
      },
    };
  } catch (error) {
    await opener.close();
    throw error;
  }
}

/** A layer's blob in a local file: where it is, or a copy that vanishes with the process. */
async function openLayer(
  artifact: LayerArtifact,
  target: ImageSource | undefined,
  { workDir, signal }: AgainstOptions,
): Promise<ReadableBlob> {
  const blob = await artifact.open();
  if (localFileOf(blob) !== undefined || target === undefined || artifact.descriptor === undefined)
    return blob;
  await blob.close();
  // All of it is needed, in any order: fetched once, in one go.
  const path = join(workDir, `.obd-verify-${process.pid}-${process.hrtime.bigint()}`);
  const stream = await target.streamBlob(artifact.descriptor, { signal });
  try {
    const file = await open(path, 'wx+', 0o600);
    try {
      await unlink(path);
      for await (const chunk of stream) await file.writeFile(chunk as Uint8Array);
      return await FileBlob.open(`/proc/self/fd/${file.fd}`);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw isSystemError(error) ? ioError(error, `keep a layer in "${workDir}"`, workDir) : error;
  } finally {
    stream.destroy();
  }
}

function refusal(image: string, number: number, { kind }: LayerArtifact): FormatError {
  return new FormatError(
    'OBD_FORMAT_UNSUPPORTED',
    `Cannot compare "${image}": layer ${number} is ${kind === 'turbo' ? 'a TurboOCI layer' : 'an ordinary layer'}, expected an overlaybd layer`,
    {
      source: image,
      expected: 'overlaybd',
      actual: kind,
      hint:
        kind === 'turbo'
          ? "Name the image's config.v1.json instead"
          : 'obd verify --against SOURCE CONVERTED',
    },
  );
}
