/**
 * Snapshots that are written to through a device of their own instead of an overlay (`rwMode`, label
 * `overlaybd.writable`): a writable layer over the image's. It is such a snapshot if its configuration has an upper.
 *
 *   active      config: image's lowers + upper      block/writable_data, block/writable_index
 *     commit()    1. link the data file as fs/overlaybd.sealed
 *                 2. seal it where it lies (the index file stays)
 *                 3. config: image's lowers + fs
 *               the store commits
 *     finish()    4. remove the pair's names
 *   committed   config: image's lowers + fs         fs/overlaybd.sealed
 *
 * The store's commit decides. What fails or crashes before it is taken back by restore(), which every use of an active
 * snapshot begins with; what is left after it are two names, which finish() or the snapshot's removal takes away.
 */
import { existsSync } from 'node:fs';
import { chmod, link, mkdir, rm, rmdir } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import { SnapshotError, ioError, isSystemError, makeDirectory } from '../blob/index.js';
import type { DeviceTransport } from './device-host.js';
import { Label } from './labels.js';
import { recordTraceOf, type LayerConfigs } from './layer-config.js';
import type { LayerTools, WritablePair } from './layer-tools.js';
import type { Layout } from './layout.js';
import type { Labels, SnapshotRecord } from './records.js';

/** `dir`: we mount the device, containers get a directory of it. `dev`: containers get the device. */
export type WriteMode = 'dir' | 'dev';

/** What {@link WritableLayers} is made of. */
export interface WritableLayersOptions {
  readonly layout: Layout;
  readonly configs: LayerConfigs;
  readonly tools: LayerTools;
  readonly sparse: boolean;
}

/** GiB of a disk that has nothing below, as in the reference. */
const DEFAULT_SIZE = 64;
/** GiB: what ext4 with 4 KiB blocks and 32-bit block numbers can hold. */
const MAX_SIZE = 16 * 1024 - 1;

/** See the head of this file. Calls for one snapshot do not overlap. */
export class WritableLayers {
  readonly #options: WritableLayersOptions;

  constructor(options: WritableLayersOptions) {
    this.#options = options;
  }

  /**
   * Makes the layer and its configuration.
   * @param parentId of a layer in overlaybd format; undefined: an empty disk.
   * @param ext4 put an empty file system into it.
   * @throws SnapshotError OBD_SNAPSHOT_INVALID for labels; IoError. The snapshot's directory may keep files.
   */
  async create(id: number, parentId: number | undefined, labels: Labels, ext4: boolean): Promise<void> {
    const { configs, layout, tools, sparse } = this.#options;
    const pair = this.#pairOf(id, labels);
    const virtualSize = parentId === undefined ? sizeOf(labels) : 0;
    try {
      await mkdir(layout.block(id));
      await chmod(layout.block(id), 0o711);
      await makeDirectory(dirname(pair.data), 0o700);
    } catch (error) {
      throw ioError(error, `make "${dirname(pair.data)}"`, dirname(pair.data));
    }
    await tools.create(pair, { virtualSize, sparse, ext4: ext4 && parentId === undefined });
    try {
      await configs.writeWritable(id, parentId, pair, recordTraceOf(labels));
    } catch (error) {
      await removePair(pair);
      throw error;
    }
  }

  /** Whether an active snapshot is written to through a device of its own. @throws IoError, ConfigError */
  async has(record: SnapshotRecord): Promise<boolean> {
    return this.#options.configs.has(record.id) && existsSync((await this.#find(record)).data);
  }

  /**
   * Makes a read-only layer of it (see the head of this file).
   * @param frozen its device is still there, and nothing is written to it; otherwise it is gone.
   * @returns where the layer's file is. @throws FormatError, IoError
   */
  async commit(record: SnapshotRecord, parentId: number | undefined, frozen: boolean): Promise<string> {
    const { configs, tools } = this.#options;
    const pair = await this.#find(record);
    const [sealed, rewritten] = this.#committedPaths(record.id);
    // What a device has open is not sealed, and what is on another file system cannot be linked: both are copied.
    const near = !frozen && (await linked(pair.data, sealed));
    if (near) await tools.seal(pair);
    else await tools.commit(pair, rewritten);
    await configs.writeCommitted(record.id, parentId);
    return near ? sealed : rewritten;
  }

  /** Takes back a commit that came to nothing, if there was one: the snapshot can be written to again. */
  async restore(record: SnapshotRecord, parentId: number | undefined): Promise<void> {
    const paths = this.#committedPaths(record.id);
    if (!paths.some((path) => existsSync(path)) || !(await this.has(record))) return;
    const pair = await this.#find(record);
    // The other kind is a copy.
    if (existsSync(paths[0])) await this.#options.tools.unseal(pair);
    await this.#options.configs.writeWritable(record.id, parentId, pair);
    for (const path of paths)
      await rm(path, { force: true }).catch((error: unknown) => {
        throw ioError(error, `remove "${path}"`, path);
      });
  }

  /** After the store has committed it. @param pair from before the commit: {@link pairOf}. */
  async finish(id: number, pair: WritablePair): Promise<void> {
    await removePair(pair);
    await this.#leave(id, pair);
  }

  /** Where its files are. @throws IoError, ConfigError */
  pairOf(record: SnapshotRecord): Promise<WritablePair> {
    return this.#find(record);
  }

  /** Removes what lies outside of a removed snapshot's directory. */
  async discard(id: number): Promise<void> {
    const { configs, layout } = this.#options;
    if (!configs.has(id)) return;
    const upper = await configs.upperOf(id).catch(() => undefined);
    if (upper === undefined || dirname(upper.data) === layout.block(id)) return;
    await this.finish(id, upper);
  }

  /** The configuration says it, except in the middle of a commit. */
  async #find({ id, labels }: SnapshotRecord): Promise<WritablePair> {
    return (await this.#options.configs.upperOf(id)) ?? this.#pairOf(id, labels);
  }

  #committedPaths(id: number): readonly [string, string] {
    const fs = this.#options.layout.fs(id);
    return [join(fs, 'overlaybd.sealed'), join(fs, 'overlaybd.commit')];
  }

  #pairOf(id: number, labels: Labels): WritablePair {
    const dir = labels[Label.activePath] ?? this.#options.layout.block(id);
    if (!isAbsolute(dir))
      throw new SnapshotError(
        'OBD_SNAPSHOT_INVALID',
        `Label "${Label.activePath}" is "${dir.slice(0, 100)}", expected an absolute path`,
        { expected: 'an absolute path' },
      );
    return { data: join(dir, 'writable_data'), index: join(dir, 'writable_index') };
  }

  async #leave(id: number, { data }: WritablePair): Promise<void> {
    if (dirname(data) !== this.#options.layout.block(id)) await rmdir(dirname(data)).catch(() => undefined); // unless there is more in it
  }
}

/** Gives a file a second name. @returns false if that is on another file system. @throws IoError */
async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if (isSystemError(error) && error.code === 'EXDEV') return false;
    throw ioError(error, `link "${from}" as "${to}"`, to);
  }
}

/**
 * How a container's root file system is written to; undefined: through an overlay.
 * @param onDevice the parent is a layer in overlaybd format, or there is none.
 */
export function writeModeOf(
  labels: Labels,
  { rwMode, onDevice, unpacking }: { rwMode: string; onDevice: boolean; unpacking: boolean },
): WriteMode | undefined {
  if (!onDevice || labels[Label.targetRef] !== undefined || labels[Label.type] === 'image') return undefined;
  const wanted = labels[Label.writable] ?? (unpacking ? '' : rwMode);
  return wanted === 'dir' || wanted === 'dev' ? wanted : undefined;
}

/**
 * How the device of a container in mode `dev` is reached.
 * @throws SnapshotError OBD_SNAPSHOT_INVALID if its label is neither.
 */
export function transportOf(labels: Labels, devTransport: DeviceTransport): DeviceTransport {
  const wanted = labels[Label.transport] ?? devTransport;
  if (wanted === 'block' || wanted === 'nbd') return wanted;
  throw new SnapshotError(
    'OBD_SNAPSHOT_INVALID',
    `Label "${Label.transport}" is "${wanted.slice(0, 100)}", expected "block" or "nbd"`,
    { expected: 'block or nbd' },
  );
}

function sizeOf(labels: Labels): number {
  const value = labels[Label.vsize];
  if (value === undefined) return DEFAULT_SIZE * 2 ** 30;
  const size = Number(value);
  if (!/^\d+$/.test(value) || size < 1 || size > MAX_SIZE)
    throw new SnapshotError(
      'OBD_SNAPSHOT_INVALID',
      `Label "${Label.vsize}" is "${value.slice(0, 100)}", expected a number of GiB from 1 to ${MAX_SIZE}`,
      { expected: `1 to ${MAX_SIZE}` },
    );
  return size * 2 ** 30;
}

async function removePair({ data, index }: WritablePair): Promise<void> {
  try {
    await rm(data, { force: true });
    await rm(index, { force: true });
  } catch (error) {
    throw ioError(error, `remove "${data}"`, data);
  }
}
