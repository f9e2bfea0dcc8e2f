import { createHash } from 'node:crypto';
import { ConfigError } from '../blob/index.js';

const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
const URL_KEY = /^url:[0-9a-f]{64}$/;

/**
 * The name of a blob's file in the cache directory: its digest, or for blobs without one the sha256 of their URL.
 * Nothing else can become a file name.
 * @throws ConfigError OBD_CONFIG_VALUE if the digest is not one.
 */
export function cacheKey(blob: { readonly digest?: string | undefined; readonly url: string }): string {
  if (blob.digest === undefined || blob.digest === '')
    return `url:${createHash('sha256').update(blob.url).digest('hex')}`;
  return checkDigest(blob.digest);
}

/** @throws ConfigError OBD_CONFIG_VALUE if this is not a sha256 or sha512 digest in lower-case hex. */
export function checkDigest(digest: string): string {
  if (!DIGEST.test(digest))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot cache blob with digest ${JSON.stringify(digest.slice(0, 160))}: expected "sha256:" and 64 hexadecimal digits`,
      { expected: 'sha256:<64 hexadecimal digits>', actual: digest.slice(0, 160) },
    );
  return digest;
}

/** True if a file of this name in a cache directory is the data of a blob. */
export function isCacheKey(name: string): boolean {
  return DIGEST.test(name) || URL_KEY.test(name);
}
