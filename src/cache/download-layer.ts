import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, rename, rm, statfs, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  FileBlob,
  IoError,
  ioError,
  OverlaybdError,
  RegistryError,
  roundUp,
  makeDirectory,
} from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { FileLock, lockFile, seekHole } from '../native/index.js';
import type { CachedBlob } from './cached-blob.js';
import { isNamed } from './open-unit-file.js';
import type { RateLimit } from './rate-limit.js';
import { DOWNLOAD_NAME, type CacheType } from './remote.js';
import { sidecarPath, syncDirectory } from './sidecar.js';

/** Name of a layer that is wholly on disk; the snapshotter and the reference look for it (service.md D.2). */
export const COMMIT_NAME = 'overlaybd.commit';

/** Written and not yet synced, at most: the final fsync must not take minutes. */
const SYNC_BYTES = 64 << 20;

/** A layer to be downloaded. */
export interface DownloadLayer {
  readonly blob: CachedBlob;
  /** `sha256:<hex>`. */
  readonly digest: string;
  /** The layer's directory. */
  readonly dir: string;
  readonly type: CacheType;
}

/** What one attempt needs. */
export interface DownloadContext {
  readonly rate: RateLimit;
  readonly blockSize: number;
  /** Bytes of the file system to leave free. */
  readonly minFree: number;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** Told how many bytes of the layer are done. */
  readonly progress: (done: number) => void;
}

/**
 * Brings one layer wholly into its directory, through the cache: what is there already, or on its way to a reader, is
 * not fetched again.
 *
 * Type `file`: the blob is written from front to back to `.download`, and hashed on the way. What is written serves
 * readers who miss in the cache; what is fetched here is not put into the cache, which may be much smaller. An
 * interrupted download goes on where the file ends (or has its first hole: the reference's are sparse); what is there
 * is hashed with the rest, so it need not be trusted. Type `download`: `.download` is the cache file itself; all its
 * units are asked for.
 *
 * When the digest is right the file is synced, and renamed to `overlaybd.commit`.
 *
 * @returns false, nothing done, if somebody else is downloading this layer.
 * @throws RegistryError OBD_REGISTRY_DIGEST if the bytes are wrong: all of them are gone then, also from the cache.
 * @throws what reading or writing throws; what was downloaded stays for the next attempt.
 */
export async function downloadLayer(layer: DownloadLayer, context: DownloadContext): Promise<boolean> {
  const target = join(layer.dir, COMMIT_NAME);
  if (await useCommitted(layer, target)) return true;
  await makeDirectory(layer.dir);
  return layer.type === 'download'
    ? await fillAndPromote(layer, target, context)
    : await writeAndPromote(layer, target, context);
}

/** True if somebody has downloaded the layer meanwhile; its bytes were checked then. */
async function useCommitted({ blob }: DownloadLayer, target: string): Promise<boolean> {
  let file: FileBlob;
  try {
    file = await FileBlob.open(target);
  } catch (error) {
    if (error instanceof OverlaybdError && error.code === 'OBD_IO_NOT_FOUND') return false;
    throw error;
  }
  if (file.size === blob.size) blob.divert({ blob: file, end: () => file.size, owned: true, verified: true });
  else await file.close();
  return true;
}

async function fillAndPromote(
  layer: DownloadLayer,
  target: string,
  context: DownloadContext,
): Promise<boolean> {
  const { blob, digest } = layer;
  await eachBlock(layer, context, 0, async (offset, bytes) => {
    await blob.read(offset, bytes, { signal: context.signal, cause: 'download' });
  });
  const verdict = await blob.promote(target);
  if (verdict === 'damaged')
    throw new RegistryError(
      'OBD_REGISTRY_DIGEST',
      `Cannot download layer "${digest}": the bytes fetched do not have its digest`,
      { source: digest, expected: digest },
    );
  // A unit may have been dropped since it was read; without a file there is nothing to promote.
  if (verdict === 'incomplete')
    throw new IoError('OBD_IO_FAILED', `Cannot complete "${target}": not all of the layer is on disk`, {
      source: target,
    });
  return true;
}

async function writeAndPromote(
  layer: DownloadLayer,
  target: string,
  context: DownloadContext,
): Promise<boolean> {
  const path = join(layer.dir, DOWNLOAD_NAME);
  const { blob, digest } = layer;
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  const file = new GrowingFile(path, handle, blob.size);
  let kept = false;
  try {
    if (!lockFile(handle.fd, FileLock.EXCLUSIVE) || !(await isNamed(handle, path))) return false;
    // Whoever held the lock may have finished: then this is a new file that nobody wants.
    if (await useCommitted(layer, target)) {
      await rm(path);
      kept = true;
      await handle.close();
      return true;
    }
    // Left by cache type `download`.
    await rm(sidecarPath(path), { force: true });
    const hash = createHash(digest.slice(0, digest.indexOf(':')));
    await file.resume(stepOf(blob, context.blockSize), hash, context.signal);
    blob.divert({ blob: file, end: () => file.end, owned: false, verified: false });
    await eachBlock(layer, context, file.end, async (offset, bytes) => {
      await blob.readThrough(offset, bytes, { signal: context.signal, cause: 'download' });
      await file.append(bytes);
      hash.update(bytes);
    });
    const actual = `${digest.slice(0, digest.indexOf(':'))}:${hash.digest('hex')}`;
    if (actual !== digest) {
      blob.divert(undefined);
      await file.idle();
      await handle.truncate(0);
      await blob.forget();
      throw new RegistryError(
        'OBD_REGISTRY_DIGEST',
        `Cannot download layer "${digest}": the bytes fetched have digest "${actual}"`,
        { source: digest, expected: digest, actual },
      );
    }
    await handle.chmod(0o644);
    await handle.sync();
    await rename(path, target);
    await syncDirectory(layer.dir);
    lockFile(handle.fd, FileLock.NONE);
    // Serves misses from here on.
    blob.divert({ blob: file, end: () => file.end, owned: true, verified: true });
    kept = true;
    return true;
  } finally {
    if (!kept) {
      blob.divert(undefined);
      await file.close();
    }
  }
}

/** Whole units: what is not stored would be fetched again with the next part of its unit. */
function stepOf(blob: CachedBlob, blockSize: number): number {
  return roundUp(blockSize, blob.unitSize);
}

/** Blocks from `from` to the end, at the permitted rate. `bytes` is reused. */
async function eachBlock(
  { blob, dir }: DownloadLayer,
  { blockSize, rate, minFree, signal, progress }: DownloadContext,
  from: number,
  take: (offset: number, bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const step = stepOf(blob, blockSize);
  const buffer = new Uint8Array(step);
  progress(from);
  for (let offset = from; offset < blob.size; offset += step) {
    const bytes = buffer.subarray(0, Math.min(step, blob.size - offset));
    signal.throwIfAborted();
    // What is local costs the network nothing.
    if (!blob.isLocal(offset, bytes.length)) await rate.take(bytes.length, signal);
    if (offset === from || (offset / step) % 256 === 0) await checkFree(dir, blob.size - offset, minFree);
    await take(offset, bytes);
    progress(offset + bytes.length);
  }
}

async function checkFree(dir: string, bytes: number, minFree: number): Promise<void> {
  const disk = await statfs(dir);
  const free = disk.bavail * disk.bsize;
  if (free - bytes < minFree)
    throw new IoError(
      'OBD_IO_NO_SPACE',
      `Cannot download into "${dir}": ${bytes} bytes are still to come, ${free} are free and ${minFree} of them have to stay so`,
      { source: dir, expected: bytes + minFree, actual: free },
    );
}

/** A file that is written at its end and read before it. */
class GrowingFile {
  readonly name: string;
  readonly size: number;
  readonly #handle: FileHandle;
  #end = 0;
  #unsynced = 0;
  #reading = 0;
  #idle: (() => void) | undefined;

  constructor(path: string, handle: FileHandle, size: number) {
    this.name = path;
    this.size = size;
    this.#handle = handle;
  }

  /** Bytes that are there, from the front. */
  get end(): number {
    return this.#end;
  }

  /** Finds out where an earlier download stopped, and hashes what it left. */
  async resume(step: number, hash: Hash, signal: AbortSignal): Promise<void> {
    const there = Math.min(seekHole(this.#handle.fd, 0) ?? 0, this.size);
    const end = there === this.size ? there : there - (there % step);
    const buffer = new Uint8Array(256 << 10);
    for (let at = 0; at < end;) {
      signal.throwIfAborted();
      const { bytesRead } = await this.#handle.read(buffer, 0, Math.min(buffer.length, end - at), at);
      if (bytesRead === 0) throw new Error(`"${this.name}" became shorter`);
      hash.update(buffer.subarray(0, bytesRead));
      at += bytesRead;
      await nextTurn();
    }
    await this.#handle.truncate(end);
    this.#end = end;
  }

  async append(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;)
      done += (await this.#handle.write(bytes, done, bytes.length - done, this.#end + done)).bytesWritten;
    this.#end += bytes.length;
    this.#unsynced += bytes.length;
    if (this.#unsynced < SYNC_BYTES) return;
    this.#unsynced = 0;
    await this.#handle.datasync();
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    this.#reading++;
    try {
      for (let done = 0; done < into.length;) {
        const { bytesRead } = await this.#handle.read(into, done, into.length - done, offset + done);
        if (bytesRead === 0) throw new Error(`"${this.name}" became shorter`);
        done += bytesRead;
      }
    } catch (error) {
      throw ioError(error, `read "${this.name}" at ${offset}`, this.name);
    } finally {
      if (--this.#reading === 0) this.#idle?.();
    }
  }

  /** Settles once nobody reads. One call at a time, when no new readers come. */
  async idle(): Promise<void> {
    if (this.#reading > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
  }

  async close(): Promise<void> {
    await this.idle();
    await this.#handle.close();
  }
}
