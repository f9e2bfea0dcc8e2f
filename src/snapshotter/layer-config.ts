/**
 * The image configuration of a layer in overlaybd format: its ancestors' layers, copied from its parent's configuration,
 * and its own on top. A snapshot is such a layer if, and only if, it has this file.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { SnapshotError, ioError, makeDirectory } from '../blob/index.js';
import { hasUpper, loadImageConfig, type ImageConfig } from '../image/index.js';
import type { Logger } from '../log/index.js';
import { blobUrl, type Mirror } from './blob-url.js';
import { Label } from './labels.js';
import type { WritablePair } from './layer-tools.js';
import type { Layout } from './layout.js';
import type { Labels } from './records.js';

/** How a layer comes to be. */
export type LayerKind =
  /** Lazily, from the registry. */
  | 'remote'
  /** The client unpacks its index beside the ordinary layer that stays in the registry. */
  | 'turbo'
  /** The client unpacks it: an ordinary layer, or an overlaybd blob in a tar; the files tell. */
  | 'unpacked';

/** A lower as it is written: only what it has. */
interface Lower {
  readonly file?: string;
  readonly dir?: string;
  readonly digest?: string;
  readonly size?: number;
  readonly targetDigest?: string;
  readonly gzipIndex?: string;
}

/** ZFile and LSMT, the first 24 bytes. */
const MAGICS = [
  [281910587246170n, 7384066304294679924n, 7017278244700045632n],
  [564050879402828n, 5478704352671792741n, 9993152565363659426n],
] as const;
const DIGEST = /^sha256:[0-9a-f]{64}$/;
const GZIP = /gzip$/;

/** The image's reference, as far as labels tell. */
export function imageRefOf(labels: Labels): string | undefined {
  return labels[Label.imageRef] ?? labels[Label.criImageRef];
}

/** Where a container's reads are to be recorded. @throws SnapshotError OBD_SNAPSHOT_INVALID for a path that is none */
export function recordTraceOf(labels: Labels): string | undefined {
  const path = labels[Label.recordTracePath];
  if (labels[Label.recordTrace] !== 'yes' || path === undefined || path === '') return undefined;
  if (path.startsWith('/') && !path.includes('\0')) return path;
  throw invalid(Label.recordTracePath, path, 'an absolute path');
}

function turboOf(labels: Labels): { digest: string; mediaType: string } | undefined {
  const digest = labels[Label.turboDigest] ?? labels[Label.fastociDigest];
  const mediaType = labels[Label.turboMediaType] ?? labels[Label.fastociMediaType];
  return digest === undefined || mediaType === undefined ? undefined : { digest, mediaType };
}

/** What a layer's labels say of it. */
export function layerKind(labels: Labels): LayerKind {
  if (labels[Label.targetRef] === undefined) return 'unpacked';
  if (turboOf(labels) !== undefined) return 'turbo';
  const known =
    labels[Label.blobDigest] !== undefined &&
    labels[Label.blobSize] !== undefined &&
    imageRefOf(labels) !== undefined;
  return known ? 'remote' : 'unpacked';
}

/** What {@link LayerConfigs} is made of. */
export interface LayerConfigsOptions {
  readonly layout: Layout;
  readonly log: Logger;
  readonly mirrors: readonly Mirror[];
  /** Best first. */
  readonly turboFsTypes: readonly string[];
}

/** See the head of this file. */
export class LayerConfigs {
  readonly #options: LayerConfigsOptions;

  constructor(options: LayerConfigsOptions) {
    this.#options = options;
  }

  /** Whether a snapshot is a layer in overlaybd format. */
  has(id: number): boolean {
    return existsSync(this.#options.layout.config(id));
  }

  /** The overlaybd blob that was unpacked into a snapshot, if there is one. @throws IoError */
  async blobPath(id: number): Promise<string | undefined> {
    for (const name of ['overlaybd.commit', 'overlaybd.sealed']) {
      const path = `${this.#options.layout.fs(id)}/${name}`;
      if (!existsSync(path)) continue;
      const head = await readHead(path);
      const known = MAGICS.some((magic) => magic.every((word, i) => head.readBigUInt64LE(i * 8) === word));
      return known ? path : undefined;
    }
    return undefined;
  }

  /** Writes the configuration of a remote layer. @throws SnapshotError OBD_SNAPSHOT_INVALID for labels; IoError */
  async writeRemote(id: number, parentId: number | undefined, labels: Labels): Promise<void> {
    const digest = checkDigest(Label.blobDigest, labels[Label.blobDigest] ?? '');
    const size = Number(labels[Label.blobSize]);
    if (!/^\d+$/.test(labels[Label.blobSize] ?? '') || !Number.isSafeInteger(size))
      throw invalid(Label.blobSize, labels[Label.blobSize] ?? '', 'a number of bytes');
    await this.#write(id, parentId, labels, () => ({ digest, size, dir: this.#options.layout.fs(id) }));
  }

  /** Writes the configuration of a layer whose blob is in its directory. @throws SnapshotError, IoError */
  async writeLocal(id: number, parentId: number | undefined, labels: Labels): Promise<void> {
    await this.#write(id, parentId, labels, () => ({ dir: this.#options.layout.fs(id) }));
  }

  /** Writes the configuration of an unpacked TurboOCI layer. @throws SnapshotError, IoError */
  async writeTurbo(id: number, parentId: number | undefined, labels: Labels): Promise<void> {
    const turbo = turboOf(labels);
    if (turbo === undefined) throw new TypeError('These are no labels of a TurboOCI layer');
    const targetDigest = checkDigest(Label.turboDigest, turbo.digest);
    const dir = this.#options.layout.fs(id);
    await this.#write(id, parentId, labels, (below) => ({
      dir,
      file: `${dir}/${this.#turboFile(dir, below[0])}`,
      targetDigest,
      ...(GZIP.test(turbo.mediaType) ? { gzipIndex: `${dir}/gzip.meta` } : {}),
    }));
  }

  /** Layers of one image have the same kind of file system as the lowest. */
  #turboFile(dir: string, bottom: Lower | undefined): string {
    if (bottom?.file !== undefined) return basename(bottom.file);
    const types = [...new Set([...this.#options.turboFsTypes, 'erofs', 'ext4'])];
    const found = types.map((type) => `${type}.fs.meta`).find((name) => existsSync(`${dir}/${name}`));
    if (found !== undefined) return found;
    throw new SnapshotError(
      'OBD_SNAPSHOT_INVALID',
      `Cannot use TurboOCI layer "${dir}": it has none of ${types.map((type) => `${type}.fs.meta`).join(', ')}`,
      { source: dir },
    );
  }

  /** Writes the configuration of a container's own device: the image's layers, and the writable one. */
  async writeWritable(
    id: number,
    parentId: number | undefined,
    upper: WritablePair,
    trace?: string,
  ): Promise<void> {
    const below = await this.#below(parentId);
    await this.#store(
      id,
      JSON.stringify({
        ...(below === undefined || below.repoBlobUrl === '' ? {} : { repoBlobUrl: below.repoBlobUrl }),
        lowers: (below?.lowers ?? []).map(withoutEmpty),
        upper,
        resultFile: this.#options.layout.result(id),
        ...(below?.accelerationLayer === true
          ? { accelerationLayer: true }
          : trace === undefined
            ? {}
            : { recordTracePath: trace }),
      }),
    );
  }

  /**
   * Has the device of a layer record what is read of it into `path`, or record no more. No effect on an image that has a
   * trace, or on a device that is attached.
   * @param before runs before anything is changed. @throws IoError, ConfigError
   */
  async setRecording(id: number, path: string | undefined, before: () => Promise<void>): Promise<void> {
    const { layout, log } = this.#options;
    const { recordTracePath, accelerationLayer } = await loadImageConfig(layout.config(id), log);
    if (accelerationLayer || recordTracePath === (path ?? '')) return;
    await before();
    const text = await readFile(layout.config(id), 'utf8');
    const config = JSON.parse(text) as Record<string, unknown>;
    delete config['recordTracePath'];
    await this.#store(
      id,
      JSON.stringify({ ...config, ...(path === undefined ? {} : { recordTracePath: path }) }),
    );
  }

  /** Writes the configuration of a layer that was a container's own device. @throws SnapshotError, IoError */
  async writeCommitted(id: number, parentId: number | undefined): Promise<void> {
    const below = await this.#below(parentId);
    const lowers = (below?.lowers ?? []).map(withoutEmpty);
    await this.#store(
      id,
      JSON.stringify({
        ...(below === undefined || below.repoBlobUrl === '' ? {} : { repoBlobUrl: below.repoBlobUrl }),
        // An image's trace is of its own layers.
        lowers: [
          ...(below?.accelerationLayer === true ? lowers.slice(0, -1) : lowers),
          { dir: this.#options.layout.fs(id) },
        ],
        resultFile: this.#options.layout.result(id),
      }),
    );
  }

  /** The writable layer that a snapshot's configuration names, if it names one. @throws IoError, ConfigError */
  async upperOf(id: number): Promise<WritablePair | undefined> {
    const { layout, log } = this.#options;
    const config = await loadImageConfig(layout.config(id), log);
    return hasUpper(config) ? { data: config.upper.data, index: config.upper.index } : undefined;
  }

  async #below(parentId: number | undefined): Promise<ImageConfig | undefined> {
    const { layout, log } = this.#options;
    if (parentId === undefined) return undefined;
    if (!this.has(parentId))
      throw new SnapshotError(
        'OBD_SNAPSHOT_INVALID',
        'A layer in overlaybd format is on top of an ordinary one: it cannot be read without those below it',
        { hint: 'Convert the whole image (obdconv)' },
      );
    return loadImageConfig(layout.config(parentId), log);
  }

  async #write(
    id: number,
    parentId: number | undefined,
    labels: Labels,
    own: (below: readonly Lower[]) => Lower,
  ): Promise<void> {
    const { layout, mirrors } = this.#options;
    const below = await this.#below(parentId);
    const lowers = (below?.lowers ?? []).map(withoutEmpty);
    const ref = imageRefOf(labels);
    const url = ref === undefined ? below?.repoBlobUrl : blobUrl(ref, mirrors);
    const config = {
      ...(url === undefined || url === '' ? {} : { repoBlobUrl: url }),
      lowers: [...lowers, own(lowers)],
      resultFile: layout.result(id),
      ...(labels[Label.accelerationLayer] === 'yes' ? { accelerationLayer: true } : {}),
    };
    await this.#store(id, JSON.stringify(config));
  }

  /** Takes back what was written for a snapshot that does not come to be. */
  async withdraw(id: number): Promise<void> {
    await rm(this.#options.layout.config(id), { force: true });
  }

  /** All or nothing, and on disk: whether the file is there is what tells layers apart. */
  async #store(id: number, text: string): Promise<void> {
    const { layout } = this.#options;
    const path = layout.config(id);
    const temporary = `${path}.${randomBytes(4).toString('hex')}`;
    try {
      for (const dir of [layout.block(id), layout.mountpoint(id)])
        // Whatever the umask; one that is there may have something mounted on it.
        if (await makeDirectory(dir)) await chmod(dir, 0o711);
      await writeFile(layout.result(id), '', { mode: 0o600 });
      const file = await open(temporary, 'wx', 0o600);
      try {
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => undefined);
      throw ioError(error, `write "${path}"`, path);
    }
  }
}

function withoutEmpty(lower: Readonly<Record<string, string | number>>): Lower {
  return Object.fromEntries(Object.entries(lower).filter(([, value]) => value !== '' && value !== 0));
}

async function readHead(path: string): Promise<Buffer> {
  const head = Buffer.alloc(24);
  try {
    const file = await open(path, 'r');
    try {
      await file.read(head, 0, head.length, 0);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw ioError(error, `read "${path}"`, path);
  }
  return head;
}

function checkDigest(label: string, value: string): string {
  if (DIGEST.test(value)) return value;
  throw invalid(label, value, '"sha256:" and 64 hexadecimal digits');
}

function invalid(label: string, value: string, expected: string): SnapshotError {
  return new SnapshotError(
    'OBD_SNAPSHOT_INVALID',
    `Label "${label}" is "${value.slice(0, 100)}", expected ${expected}`,
    { expected },
  );
}
