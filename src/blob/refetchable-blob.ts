import type { ReadOptions } from './readable-blob.js';

/**
 * A blob whose bytes are a local copy of a source elsewhere, so that a bad copy can be replaced. Whoever finds that a
 * checksum does not hold calls `refetch` once, reads again, and only then reports corruption.
 */
export interface RefetchableBlob {
  /**
   * Drops the local copy of at least [offset, offset + length) and fetches it again. Settles once the new bytes are
   * what `read` returns. The implementation widens the range to its own units. Calls may overlap.
   * @throws RangeError if the range leaves the blob.
   * @throws OverlaybdError if the source could not be read; the range then counts as not fetched.
   */
  refetch(offset: number, length: number, options?: ReadOptions): Promise<void>;
}

/** The blob's way to fetch a range again, or undefined if nothing below it has a source. Constant while open. */
export function refetchableOf(blob: object): RefetchableBlob | undefined {
  if ('refetchable' in blob && typeof blob.refetchable === 'function')
    return (blob as ForwardsRefetch).refetchable();
  return 'refetch' in blob ? (blob as RefetchableBlob) : undefined;
}

/** A wrapper that moves the window: it can fetch again exactly when what it wraps can. */
export interface ForwardsRefetch {
  /** Offsets count in the wrapper. Undefined if the inner blob has no source. */
  refetchable(): RefetchableBlob | undefined;
}
