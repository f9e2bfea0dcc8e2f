/**
 * A live snapshot: the upper of an image in use becomes its topmost lower, and the upper of another configuration takes
 * what is written from then on (service.md D.6).
 *
 *   1  the new configuration, complete, is written as `CONFIG.obd-snapshot`          old configuration, old upper
 *   2  writes wait; the old upper is sealed where it lies                            (undone if 3 fails)
 *   3  `CONFIG.obd-snapshot` is renamed to `CONFIG`                                   new configuration, new upper
 *   4  the stack has its new upper, I/O workers know, writes go on
 *   5  the configuration that was given is removed
 *
 * Nothing is written to the new upper before 3, nothing to the old one after 2. Who opens `CONFIG` and finds a
 * `CONFIG.obd-snapshot` ends what was begun ({@link finishSnapshot}): forward if the old upper is sealed, else back.
 */
import { open, readFile, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { ConfigError, DeviceError, FileBlob, ioError, isSystemError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import {
  isSealable,
  openSealedLayer,
  openWritableLayer,
  sealedInPlace,
  syncDirectoryOf,
  type Layer,
  type WritableLayer,
  type WritableLayerStack,
} from '../lsmt/index.js';
import { hasUpper, parseImageConfig, type ImageConfig, type LowerConfig } from './image-config.js';
import { locateLower } from './layer-source.js';
import { describeStack, type ImageDescription } from './planner.js';

/** What the device does while its image changes. */
export interface SnapshotHooks {
  /** Has I/O workers read by this from now on; settles when no new read goes by what they had before. */
  readonly replan: (planner: ImageDescription | undefined) => Promise<void>;
  /** Settles when the reads that I/O workers have in flight now have ended. */
  readonly quiesce: () => Promise<void>;
  /** Told after each step; for tests, which end the process there. */
  readonly reached?: (step: SnapshotStep) => void | Promise<void>;
}

/** Steps of a snapshot, in order. */
export type SnapshotStep = 'prepared' | 'sealed' | 'renamed' | 'done';

/** What a snapshot has made. */
export interface SnapshotResult {
  /** The sealed layer. */
  readonly sealed: string;
  /** The new upper's data file. */
  readonly upper: string;
  /** For how long writes waited. */
  readonly pauseMs: number;
}

/** An image in use. */
export interface SnapshotTarget {
  readonly stack: WritableLayerStack;
  readonly config: ImageConfig;
  readonly configPath: string;
}

const pendingName = (configPath: string): string => `${configPath}.obd-snapshot`;

/** Configurations are lists of at most 256 layers. */
const MAX_CONFIG_BYTES = 1 << 20;

/**
 * Takes a snapshot of an image in use.
 * @returns the configuration that now stands at `configPath`, and what was made.
 * @throws ConfigError if the new configuration does not fit; IoError, FormatError. The image is as it was then.
 */
export async function takeSnapshot(
  { stack, config, configPath }: SnapshotTarget,
  newConfigPath: string,
  hooks: SnapshotHooks,
  log: Logger,
): Promise<{ readonly config: ImageConfig; readonly result: SnapshotResult }> {
  const reached = async (step: SnapshotStep): Promise<void> => hooks.reached?.(step);
  const old = stack.upper;
  if (!isSealable(old) || old.readOnly) throw unfit(newConfigPath, 'the device has no writable layer');
  if (config.accelerationLayer) throw unfit(newConfigPath, 'the image has an acceleration layer');
  const fresh = await readNewConfig(newConfigPath, config, log);
  const next = await openNext(fresh.config, stack, newConfigPath);
  const pending = pendingName(configPath);
  const settled = { done: false };
  try {
    await writeDurably(pending, fresh.text, fresh.mode);
    await reached('prepared');
    const { pauseMs } = await stack.restack({
      next,
      reached,
      reopen: () => openSealed(config.upper.data),
      commit: async () => {
        await renameOver(pending, configPath);
        settled.done = true;
        // What the name stands for is settled; only how long a power failure could undo it is not.
        await syncDirectoryOf(configPath).catch((error: unknown) => {
          log.warn({ configPath, err: error }, 'the directory of a configuration cannot be flushed');
        });
        await reached('renamed');
      },
      // A worker that cannot plan any more asks for every read: slow, and right.
      adopt: () =>
        hooks.replan(describeStack(stack)).catch((error: unknown) => {
          log.error({ configPath, err: error }, 'I/O workers cannot plan the new stack');
        }),
      readsElsewherePassed: hooks.quiesce,
    });
    await rm(newConfigPath, { force: true }).catch((error: unknown) => {
      log.warn({ path: newConfigPath, err: error }, 'the configuration of a snapshot is not removed');
    });
    await reached('done');
    const result = { sealed: config.upper.data, upper: fresh.config.upper.data, pauseMs };
    return { config: fresh.config, result };
  } catch (error) {
    if (!settled.done) {
      await next.close();
      await rm(pending, { force: true }).catch(() => undefined);
    }
    throw error;
  }
}

/**
 * Ends a snapshot that a process was killed in. Call before a configuration is opened for writing. Costs one look at the
 * directory if there is none.
 */
export async function finishSnapshot(configPath: string, log: Logger): Promise<void> {
  const pending = pendingName(configPath);
  try {
    await stat(pending);
  } catch (error) {
    if (isSystemError(error) && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return;
    throw ioError(error, `look for "${pending}"`, pending);
  }
  const { upper } = parseImageConfig(await readText(configPath), configPath, log);
  const sealed = await sealedInPlace(upper.data);
  // Somebody has the layer open: a snapshot is being taken now, and opening the image will be refused.
  if (sealed === undefined) return;
  log.warn(
    { configPath, sealed },
    sealed ? 'ending a snapshot that was cut off' : 'dropping a snapshot that was cut off',
  );
  if (sealed) await renameOver(pending, configPath);
  else await rm(pending, { force: true });
  await syncDirectoryOf(configPath);
}

function unfit(path: string, why: string, hint?: string): ConfigError {
  return new ConfigError('OBD_CONFIG_VALUE', `Cannot take a snapshot with "${path}": ${why}`, {
    source: path,
    ...(hint === undefined ? {} : { hint }),
  });
}

/**
 * The new configuration, checked against the one in use. Its lowers must be those of the image and then the layer that is
 * being sealed; where it names only the former, the latter is added: without it, what is in the layer would be lost with
 * the next opening.
 */
async function readNewConfig(
  path: string,
  current: ImageConfig,
  log: Logger,
): Promise<{ readonly config: ImageConfig; readonly text: string; readonly mode: number }> {
  const mode = await refuseForeign(path);
  let text = await readText(path);
  let config = parseImageConfig(text, path, log);
  if (!hasUpper(config))
    throw unfit(path, 'it has no complete "upper"', 'An upper needs both "data" and "index"');
  for (const key of ['data', 'index'] as const)
    if (await sameFile(config.upper[key], current.upper[key]))
      throw unfit(path, `its "upper.${key}" is the one in use, "${current.upper[key]}"`);
  const { lowers } = current;
  if (config.accelerationLayer) throw unfit(path, 'it has an acceleration layer');
  if (config.lowers.length === lowers.length) {
    const json = JSON.parse(text) as { lowers?: unknown[] };
    json.lowers = [...(json.lowers ?? []), { file: current.upper.data }];
    text = `${JSON.stringify(json, undefined, 2)}\n`;
    config = parseImageConfig(text, path, log);
    log.info({ path, layer: current.upper.data }, 'the sealed layer is added to the new configuration');
  }
  if (config.lowers.length !== lowers.length + 1)
    throw unfit(
      path,
      `it has ${config.lowers.length} lowers, expected the image's ${lowers.length} and then its upper`,
    );
  for (const [i, lower] of lowers.entries()) {
    const other = config.lowers[i];
    if (other === undefined || !(await sameLower(lower, other, current, config)))
      throw unfit(path, `its "lowers[${i}]" is not the image's`);
  }
  const top = config.lowers[lowers.length];
  const source =
    top === undefined ? undefined : await locateLower(top, config, 'the sealed layer').catch(() => undefined);
  if (source?.kind !== 'file' || !(await sameFile(source.path, current.upper.data)))
    throw unfit(
      path,
      `its topmost lower is not the upper that becomes one, "${current.upper.data}"`,
      'Name its data file as the "file" of the last of "lowers"',
    );
  return { config, text, mode };
}

/** Whoever may write the configuration decides what the service opens; so it must be the service's own user. Gives its mode. */
async function refuseForeign(path: string): Promise<number> {
  const { uid, mode, size } = await stat(path).catch((error: unknown) => {
    throw ioError(error, `read "${path}"`, path);
  });
  if (size > MAX_CONFIG_BYTES)
    throw unfit(path, `it has ${size} bytes, at most ${MAX_CONFIG_BYTES} are read`);
  const self = process.geteuid?.();
  if (uid !== 0 && uid !== self)
    throw unfit(
      path,
      `user ${uid} owns it, expected 0 or the service's own`,
      `chown it to user ${self ?? 0}`,
    );
  if ((mode & 0o002) !== 0) throw unfit(path, 'everybody may write to it', 'chmod o-w');
  return mode & 0o777;
}

async function sameLower(
  a: LowerConfig,
  b: LowerConfig,
  configA: ImageConfig,
  configB: ImageConfig,
): Promise<boolean> {
  if (isDeepStrictEqual(a, b)) return true;
  if (a.digest !== b.digest && a.digest !== '' && b.digest !== '') return false;
  for (const key of ['targetFile', 'targetDigest', 'gzipIndex'] as const) if (a[key] !== b[key]) return false;
  if (a.digest !== '' && a.digest === b.digest) return true;
  const [fileA, fileB] = await Promise.all([
    locateLower(a, configA, 'layer').catch(() => undefined),
    locateLower(b, configB, 'layer').catch(() => undefined),
  ]);
  return fileA?.kind === 'file' && fileB?.kind === 'file' && (await sameFile(fileA.path, fileB.path));
}

async function sameFile(a: string, b: string): Promise<boolean> {
  const real = (path: string): Promise<string> => realpath(path).catch(() => path);
  return a === b || (await real(a)) === (await real(b));
}

/** The new upper, ready to be written to: empty, of the right size, durable. */
async function openNext(
  config: ImageConfig,
  stack: WritableLayerStack,
  source: string,
): Promise<WritableLayer> {
  const { data, index } = config.upper;
  const next = await openWritableLayer({ data, index });
  try {
    const { virtualSize } = next.info;
    if (virtualSize !== 0 && virtualSize !== stack.size)
      throw unfit(source, `its upper is for a disk of ${virtualSize} bytes, expected ${stack.size}`);
    if (next.map.length > 0)
      throw unfit(source, `its upper "${data}" has data in it`, 'Make a new one with overlaybd-create');
    if (virtualSize === 0) await next.adoptVirtualSize(stack.size);
    await next.flush();
    for (const path of new Set([dirname(data), dirname(index)])) await syncDirectoryOf(`${path}/.`);
    return next;
  } catch (error) {
    await next.close();
    throw error;
  }
}

async function openSealed(path: string): Promise<Layer> {
  const file = await FileBlob.open(path);
  try {
    return await openSealedLayer(file);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw ioError(error, `read "${path}"`, path);
  }
}

async function writeDurably(path: string, text: string, mode: number): Promise<void> {
  try {
    await rm(path, { force: true });
    const handle = await open(path, 'wx', 0o600);
    try {
      await handle.writeFile(text);
      await handle.chmod(mode);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw ioError(error, `write "${path}"`, path);
  }
  await syncDirectoryOf(path);
}

async function renameOver(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    throw ioError(error, `rename "${from}" to "${to}"`, to);
  }
}

/** @throws DeviceError OBD_DEVICE_UNSUPPORTED */
export function noSnapshot(name: string): never {
  throw new DeviceError(
    'OBD_DEVICE_UNSUPPORTED',
    `Cannot take a snapshot of "${name}": it has no writable layer`,
    { source: name },
  );
}

/** One at a time. */
export function snapshotIsBusy(name: string): DeviceError {
  return new DeviceError('OBD_DEVICE_BUSY', `Cannot take a snapshot of "${name}": one is being taken`, {
    source: name,
  });
}
