import { FormatError } from '../blob/index.js';
import { addon } from './addon.js';

/** ZFile's algorithm numbers. */
export const Codec = { LZ4: 1, ZSTD: 2 } as const;
/** One of {@link Codec}. */
export type Codec = (typeof Codec)[keyof typeof Codec];

/** Raw CRC-32C (no inversion before or after), chaining: crc(A‖B, s) = crc(B, crc(A, s)). Wraps obd_crc32c. */
export function crc32c(data: Uint8Array, seed = 0): number {
  return addon.crc32c(data, seed);
}

/** Version of the zstd in the addon, such as "1.5.4": the same bytes packed by another version can come out differently. */
export const zstdVersion = addon.zstdVersion;

/** Most bytes that `length` plain bytes can take when compressed. Wraps obd_codec_bound. */
export function compressBound(codec: Codec, length: number): number {
  return addon.compressBound(codec, length);
}

/**
 * Compresses all of `from` into the start of `into`; returns the bytes written. Synchronous. Wraps obd_compress.
 * @throws RangeError if `into` is smaller than {@link compressBound} and the result does not fit.
 */
export function compress(codec: Codec, from: Uint8Array, into: Uint8Array): number {
  const n = addon.compress(codec, from, into);
  if (n < 0) throw new RangeError(`Compression of ${from.byteLength} bytes does not fit ${into.byteLength}`);
  return n;
}

/**
 * Unpacks all of `from` into the start of `into`; returns the plain length. Synchronous. Wraps obd_decompress.
 * @throws FormatError OBD_FORMAT_CORRUPT_BLOCK if `from` is not valid or does not fit `into`.
 */
export function decompress(codec: Codec, from: Uint8Array, into: Uint8Array): number {
  const n = addon.decompress(codec, from, into);
  if (n < 0)
    throw new FormatError(
      'OBD_FORMAT_CORRUPT_BLOCK',
      `Cannot unpack ${from.byteLength} bytes of ${codec === Codec.LZ4 ? 'LZ4' : 'zstd'} into ${into.byteLength}`,
    );
  return n;
}
