import { join } from 'node:path';
import { ConfigError, ioError, type ReadableBlob, makeDirectory } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { BlobCache, BlobCacheOptions } from './blob-cache.js';
import type { CachedBlob } from './cached-blob.js';

/** Where cached bytes lie: `file` in the cache directory, `download` in each layer's own directory, unbounded. */
export type CacheType = 'file' | 'download';

/** The keys of `cacheConfig` (or `gzipCacheConfig`) that matter here, spelt as in overlaybd.json. */
export interface CacheConfigKeys {
  readonly cacheType: string;
  readonly cacheDir: string;
  readonly cacheSizeGB: number;
  readonly refillSize: number;
}

/**
 * Turns configuration keys into options of {@link BlobCache}.
 * @throws ConfigError OBD_CONFIG_VALUE that names the key.
 */
export function cacheOptions(
  keys: CacheConfigKeys,
  log: Logger,
): { readonly type: CacheType; readonly options: BlobCacheOptions } {
  const { cacheType, cacheDir, cacheSizeGB, refillSize } = keys;
  // A power of two: units then start at page boundaries, and divide every larger request evenly.
  if (
    !Number.isSafeInteger(refillSize) ||
    refillSize < 4096 ||
    2 ** Math.round(Math.log2(refillSize)) !== refillSize
  )
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot use "refillSize": found ${refillSize}, expected a power of two of at least 4096`,
      { source: 'refillSize', actual: refillSize },
    );
  if (!(cacheSizeGB >= 0 && cacheSizeGB <= 2 ** 20))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot use "cacheSizeGB": found ${cacheSizeGB}, expected a number of GiB up to ${2 ** 20}`,
      { source: 'cacheSizeGB', actual: cacheSizeGB },
    );
  return {
    type: checkType(cacheType, log),
    options: { dir: cacheDir, capacity: cacheSizeGB * 2 ** 30, unitSize: refillSize, log },
  };
}

function checkType(cacheType: string, log: Logger): CacheType {
  switch (cacheType) {
    case '':
    case 'file':
      return 'file';
    case 'download':
      return 'download';
    case 'ocf':
      log.warn({ key: 'cacheType' }, 'Cache type "ocf" is not supported, using "file"');
      return 'file';
    default:
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot use "cacheType": found ${JSON.stringify(cacheType)}, expected "file" or "download"`,
        { source: 'cacheType', actual: cacheType },
      );
  }
}

/** A remote layer as an image names it. */
export interface RemoteBlob {
  readonly url: string;
  readonly digest?: string | undefined;
  /** Bytes; the source is asked if it is not known. */
  readonly size?: number | undefined;
  /** The layer's directory. Used by cache type `download`. */
  readonly dir?: string | undefined;
  readonly type: CacheType;
  /** See `CacheRequest.unitSize`. */
  readonly unitSize?: number | undefined;
  /** Opens the registry's side. Called at the first miss, or at once if the size is not known. */
  readonly source: () => Promise<ReadableBlob>;
}

/** Name of a partly downloaded layer in its directory. */
export const DOWNLOAD_NAME = '.download';

/**
 * Opens a remote layer through the cache.
 * @throws what {@link BlobCache.openBlob} throws; what the source throws, if it has to be asked for the size.
 */
export async function openCachedRemote(cache: BlobCache, remote: RemoteBlob): Promise<CachedBlob> {
  const { url, digest, dir, unitSize } = remote;
  const asked = remote.size === undefined || remote.size === 0 ? await remote.source() : undefined;
  const size = asked?.size ?? remote.size ?? 0;
  const source = asked ?? remote.source;
  try {
    let path: string | undefined;
    if (remote.type === 'download' && dir !== undefined && dir !== '') {
      path = join(dir, DOWNLOAD_NAME);
      await makeDirectory(dir).catch((error: unknown) => {
        throw ioError(error, `make layer directory "${dir}"`, dir);
      });
    }
    return await cache.openBlob({
      digest,
      url,
      size,
      source,
      unitSize,
      ...(path === undefined ? {} : { path }),
    });
  } catch (error) {
    await asked?.close();
    throw error;
  }
}
