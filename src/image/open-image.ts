/**
 * An image's configuration becomes a disk:
 *
 *   config.v1.json ─► for each lower, 32 at a time: find it ─► open it ─► tar? ─► ZFile? ─► LSMT layer (or warp + target)
 *                  ─► stack of layers, with the upper on top if there is one
 *
 * Where remote blobs come from is the caller's affair ({@link OpenImageOptions.openRemote}), so this needs no network.
 * Whatever was opened is closed again if anything fails, and the failure names the layer.
 */
import {
  ConfigError,
  FileBlob,
  FormatError,
  OverlaybdError,
  type ExtentMapped,
  type ReadableBlob,
  type WritableBlob,
} from '../blob/index.js';
import { GzipBlob } from '../gzip/index.js';
import type { Logger } from '../log/index.js';
import {
  LayerStack,
  openSealedLayer,
  openWarpLayer,
  openWritableLayer,
  WritableLayerStack,
  type Layer,
  type WritableLayer,
} from '../lsmt/index.js';
import { asOverlaybdError, failureKind, ImageError } from './image-error.js';
import { hasUpper, type ImageConfig, type LowerConfig } from './image-config.js';
import {
  locateLower,
  locateTarget,
  sourceName,
  type LayerSource,
  type RemoteRequest,
} from './layer-source.js';
import { describeStack, type ImageDescription } from './planner.js';
import { unwrapLayer, type UnwrappedLayer } from './unwrap-layer.js';

/** Layers opened at once, as in the reference: more would only wait for the registry. */
const OPEN_PARALLELISM = 32;

/** How to open an image. */
export interface OpenImageOptions {
  readonly log: Logger;
  /** Opens a blob of a registry; the image owns it. Without this, an image with remote layers cannot be opened. */
  readonly openRemote?: (request: RemoteRequest) => Promise<ReadableBlob>;
  /** Puts a cache before the plain bytes of a gzip target; the result owns `plain`. Default: none. */
  readonly cacheGzip?: (plain: ReadableBlob, target: LayerSource) => Promise<ReadableBlob>;
  /** Puts something before a lower's LSMT file, the result owns `blob`; I/O workers then plan nothing of that layer. */
  readonly tap?: ((number: number, blob: ReadableBlob) => ReadableBlob) | undefined;
  /** `read`: an upper is shown but not changed, and others may have the image open. Default `write`. */
  readonly mode?: 'read' | 'write';
  /** How errors and logs name the device; default the upper's or topmost layer's name. */
  readonly name?: string;
}

/** A lower that is open. */
export interface OpenedLower extends UnwrappedLayer {
  /** From 0, bottom first, as in the configuration. */
  readonly number: number;
  readonly source: LayerSource;
  /** As it is stored: the file, or the blob that `openRemote` gave. */
  readonly stored: ReadableBlob;
  /** As stored, of a TurboOCI layer. */
  readonly target: ReadableBlob | undefined;
  readonly layer: Layer;
}

/** An image that is open. */
export interface OpenedImage {
  /** The disk; writable exactly if not `readOnly`. */
  readonly blob: ReadableBlob | WritableBlob;
  /** Bytes. */
  readonly virtualSize: number;
  readonly readOnly: boolean;
  /** Bottom to top, without the acceleration layer. */
  readonly lowers: readonly OpenedLower[];
  readonly upper: WritableLayer | undefined;
  /** For I/O workers. */
  readonly planner: ImageDescription | undefined;
  /** Closes everything. Idempotent. */
  close(): Promise<void>;
}

/**
 * Opens an image.
 * @throws ImageError with the code of whatever failed; its message names layer and file or URL.
 */
export async function openImage(config: ImageConfig, options: OpenImageOptions): Promise<OpenedImage> {
  const wanted = config.accelerationLayer ? config.lowers.slice(0, -1) : config.lowers;
  const lowers = await openAll(wanted, config, options);
  let upper: WritableLayer | undefined;
  try {
    upper = hasUpper(config) ? await openUpper(config, options) : undefined;
    const layers = lowers.map(({ layer }) => layer);
    const named = options.name === undefined ? {} : { name: options.name };
    const stack =
      upper === undefined
        ? new LayerStack(layers, named)
        : await WritableLayerStack.open(layers, upper, named);
    const readOnly = upper === undefined || options.mode === 'read';
    return {
      blob: readOnly && upper !== undefined ? readOnlyView(stack) : stack,
      virtualSize: stack.size,
      readOnly,
      lowers,
      upper,
      planner: describeStack(stack),
      close: () => stack.close(),
    };
  } catch (error) {
    await Promise.allSettled([upper?.close(), ...lowers.map(({ layer }) => layer.close())]);
    if (error instanceof ImageError) throw error;
    const cause = asOverlaybdError(error);
    throw new ImageError(
      cause,
      `Cannot stack the image's ${lowers.length} layers: ${cause.message}`,
      `failed to create overlaybd device: ${cause.message}`,
    );
  }
}

/** A stack without its ways to write. */
function readOnlyView(stack: LayerStack | WritableLayerStack): ReadableBlob & ExtentMapped {
  return {
    name: stack.name,
    size: stack.size,
    read: (offset, into, options) => stack.read(offset, into, options),
    extents: (offset, length) => stack.extents(offset, length),
    close: () => stack.close(),
  };
}

/** Opens all lowers or none. Reports the failure of the lowest layer. */
async function openAll(
  wanted: readonly LowerConfig[],
  config: ImageConfig,
  options: OpenImageOptions,
): Promise<readonly OpenedLower[]> {
  const results = new Array<OpenedLower | ImageError | undefined>(wanted.length);
  let next = 0;
  let failed = false;
  const lane = async (): Promise<void> => {
    for (let i = next++; i < wanted.length && !failed; i = next++) {
      const lower = wanted[i];
      if (lower === undefined) return;
      const result = await openLower(i, lower, config, options);
      results[i] = result;
      failed ||= result instanceof ImageError;
    }
  };
  const lanes = await Promise.allSettled(
    Array.from({ length: Math.min(OPEN_PARALLELISM, wanted.length) }, lane),
  );
  const opened = results.filter(
    (result): result is OpenedLower => result !== undefined && !(result instanceof ImageError),
  );
  const bug = lanes.find((result) => result.status === 'rejected');
  const failure = results.find((result) => result instanceof ImageError);
  if (bug === undefined && failure === undefined) return opened;
  await Promise.allSettled(opened.map(({ layer }) => layer.close()));
  throw failure ?? bug?.reason;
}

/** Gives an error rather than throwing it, unless it is a bug. */
async function openLower(
  number: number,
  lower: LowerConfig,
  config: ImageConfig,
  options: OpenImageOptions,
): Promise<OpenedLower | ImageError> {
  const what = `layer ${number}`;
  let source: LayerSource | undefined;
  let stored: ReadableBlob | undefined;
  let target: OpenedTarget | undefined;
  try {
    source = await locateLower(lower, config, what);
    stored = await openSource(source, options);
    if (source.kind === 'remote') fetchTail(stored);
    if (stored instanceof FileBlob) await stored.keepEnds();
    const unwrapped = await unwrapLayer(stored);
    verifyWhatIsFetched(stored, unwrapped);
    target = await openTarget(lower, config, what, options);
    const blob = options.tap === undefined ? unwrapped.blob : options.tap(number, unwrapped.blob);
    const layer =
      target === undefined ? await openSealedLayer(blob) : await openWarpLayer(blob, target.plain);
    // What was of use for opening only: an image may have 255 layers, and a service hundreds of images.
    if (stored instanceof FileBlob) stored.forgetEnds();
    unwrapped.zfile?.trim();
    return { ...unwrapped, number, source, stored, target: target?.stored, layer };
  } catch (error) {
    await Promise.allSettled([stored?.close(), target?.plain.close()]);
    if (error instanceof ImageError) return error;
    const cause = asOverlaybdError(error);
    const name = source === undefined ? lower.digest || lower.dir : sourceName(source);
    return new ImageError(
      cause,
      `Cannot open ${what} (${name}): ${cause.message}`,
      `failed to open ${what}: ${cause.message}`,
    );
  }
}

/**
 * Every layer has its index at its end, and the way there leads over the header: asking for both at once saves a round
 * trip. Only the time of the answer matters, so a failure is left to who reads there in earnest.
 */
function fetchTail(stored: ReadableBlob): void {
  if (stored.size > 0) stored.read(stored.size - 1, new Uint8Array(1)).catch(() => undefined);
}

/** Units whose check may fail for good before they are refused: far more than a layer worth serving has. */
const MAX_CONDEMNED = 1000;

/**
 * A cache that takes a check of what it fetches gets the layer's block checksums. What fails is fetched again, once;
 * what then still fails is how the source has it, and is let through: the reader refuses exactly the blocks that are
 * bad, and the good ones beside them stay readable.
 */
function verifyWhatIsFetched(stored: ReadableBlob, { zfile, payloadOffset }: UnwrappedLayer): void {
  if (zfile === undefined || !('setCheck' in stored)) return;
  const condemned = new Set<number>();
  (stored as Checked).setCheck((start, bytes) => {
    try {
      zfile.checkStored(start - payloadOffset, bytes);
      condemned.delete(start);
    } catch (error) {
      if (condemned.has(start)) return;
      if (condemned.size < MAX_CONDEMNED) condemned.add(start);
      throw error;
    }
  });
}

/** A cached blob; see src/cache. */
interface Checked {
  setCheck(check: (start: number, bytes: Uint8Array) => void): void;
}

/** @throws ImageError */
async function openSource(source: LayerSource, options: OpenImageOptions): Promise<ReadableBlob> {
  try {
    if (source.kind === 'file') return await FileBlob.open(source.path);
    if (options.openRemote === undefined)
      throw new ConfigError('OBD_CONFIG_VALUE', 'remote layers are not available here', {
        source: source.url,
        hint: 'Give a service configuration, so that the registry can be reached',
      });
    return await options.openRemote(source);
  } catch (error) {
    const cause = asOverlaybdError(error);
    const name = sourceName(source);
    throw new ImageError(
      cause,
      `Cannot open layer file "${name}": ${cause.message}`,
      source.kind === 'file'
        ? `failed to open local file ${name}: ${cause.message}`
        : `failed to open remote file ${name}: ${failureKind(cause.code)}`,
    );
  }
}

interface OpenedTarget {
  readonly stored: ReadableBlob;
  /** The uncompressed tar stream; owns `stored`. */
  readonly plain: ReadableBlob;
}

async function openTarget(
  lower: LowerConfig,
  config: ImageConfig,
  what: string,
  options: OpenImageOptions,
): Promise<OpenedTarget | undefined> {
  const source = locateTarget(lower, config, `target of ${what}`);
  if (source === undefined) return undefined;
  const stored = await openSource(source, options);
  let index: ReadableBlob | undefined;
  let plain: ReadableBlob | undefined;
  try {
    if (lower.gzipIndex === '') {
      await refuseGzip(stored);
      return { stored, plain: stored };
    }
    index = await openSource({ kind: 'file', path: lower.gzipIndex }, options);
    plain = await GzipBlob.open(stored, index);
    if (options.cacheGzip !== undefined) plain = await options.cacheGzip(plain, source);
    return { stored, plain };
  } catch (error) {
    await Promise.allSettled([plain?.close(), stored.close(), index?.close()]);
    throw error;
  }
}

/** A target that is compressed would read as noise. */
async function refuseGzip(target: ReadableBlob): Promise<void> {
  const start = new Uint8Array(Math.min(2, target.size));
  await target.read(0, start);
  if (start[0] === 0x1f && start[1] === 0x8b)
    throw new FormatError(
      'OBD_FORMAT_UNSUPPORTED',
      `Cannot use target "${target.name}": it is gzip, and the layer has no "gzipIndex"`,
      { source: target.name },
    );
}

async function openUpper(config: ImageConfig, options: OpenImageOptions): Promise<WritableLayer> {
  const { data, index } = config.upper;
  try {
    const upper = await openWritableLayer({ data, index }, { mode: options.mode ?? 'write' });
    if ('recovery' in upper && upper.recovery !== undefined)
      options.log.warn(
        { ...upper.recovery, data, index },
        'Writable layer was damaged and has been recovered',
      );
    return upper;
  } catch (error) {
    const cause: OverlaybdError = asOverlaybdError(error);
    throw new ImageError(
      cause,
      `Cannot open the writable layer (${data}, ${index}): ${cause.message}`,
      `failed to open local file ${data}: ${cause.message}`,
    );
  }
}
