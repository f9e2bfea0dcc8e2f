/** Local copies of remote blobs: bounded, crash-safe, shared by processes. docs/cache.md tells how. */
export { BlobCache, type BlobCacheOptions, type CacheRequest, type CacheStats } from './blob-cache.js';
export { CachedBlob } from './cached-blob.js';
export type { UnitCheck } from './unit-fetcher.js';
export {
  cacheOptions,
  DOWNLOAD_NAME,
  openCachedRemote,
  type CacheConfigKeys,
  type CacheType,
  type RemoteBlob,
} from './remote.js';
export { EXACT_UNIT } from './open-unit-file.js';
export { COMMIT_NAME, type DownloadLayer } from './download-layer.js';
export { RateLimit } from './rate-limit.js';
export { Download, type DownloadKeys, type DownloadOptions, type DownloadProgress } from './download.js';
