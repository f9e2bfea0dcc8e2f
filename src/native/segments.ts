import { addon } from './addon.js';

/** What {@link mergeSegments} may answer instead of a list. */
export const MergeFailure = { TOO_MANY: -7, NO_MEMORY: -12, OUT_OF_ORDER: -22 } as const;

/**
 * Merges layers of segments (src/lsmt/segment.ts), bottom to top: what a reader of all of them sees. Each is sorted and
 * disjoint, its array whole and aligned to 8 bytes. O(n log k), synchronous.
 * @param most segments that the result, or a part of it on the way, may reach.
 * @returns the segments' words, or a {@link MergeFailure}. Wraps obd_merge_segments.
 */
export function mergeSegments(layers: readonly Uint32Array[], most: number): Uint32Array | number {
  return addon.mergeSegments(layers, most);
}
