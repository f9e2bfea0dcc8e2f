/**
 * Merging layers: what a reader of the stack sees, as one sorted list (formats.md 1.5), that of the reference's
 * recursive merge, entry for entry; neighbours are not joined. native/segment_merge.c does it: an image is opened once,
 * before anything of it can be read, by code that no JIT has seen yet.
 */

import { FormatError } from '../blob/index.js';
import { MergeFailure, mergeSegments as mergeNative } from '../native/index.js';
import { MAX_MERGED_ENTRIES } from './format.js';
import { MAX_TAGS, segmentTag, SEGMENT_WORDS, type Segments } from './segment.js';

const EMPTY: Segments = { words: new Uint32Array(0), count: 0 };

/**
 * The same segments with `shift` added to every tag. O(n) copy.
 * @throws RangeError if a tag would not fit.
 */
export function shiftTags(segments: Segments, shift: number): Segments {
  const words = segments.words.slice(0, segments.count * SEGMENT_WORDS);
  for (let i = 0; i < segments.count; i++) {
    const tag = segmentTag(words, i) + shift;
    if (tag >= MAX_TAGS) throw new RangeError(`Tag ${tag} of a merged index, at most ${MAX_TAGS} files`);
    const at = i * SEGMENT_WORDS + 3;
    words[at] = ((words[at] ?? 0) & ~(0x7ff << 12)) | (tag << 12);
  }
  return { words, count: segments.count };
}

/**
 * Merges layers given bottom to top. Tags are taken as they are: the caller has made them distinct.
 * @throws FormatError OBD_FORMAT_LIMIT if the result could exceed {@link MAX_MERGED_ENTRIES}.
 */
export function mergeSegments(layers: readonly Segments[]): Segments {
  if (layers.length === 0) return EMPTY;
  if (layers.length === 1) return layers[0] ?? EMPTY;
  const lists = layers.map(({ words, count }) => words.subarray(0, count * SEGMENT_WORDS));
  const merged = mergeNative(lists, MAX_MERGED_ENTRIES);
  if (typeof merged !== 'number') return { words: merged, count: merged.length / SEGMENT_WORDS };
  if (merged === MergeFailure.OUT_OF_ORDER)
    throw new TypeError('Segments to be merged are not sorted and disjoint');
  const count = layers.reduce((sum, layer) => sum + layer.count, 0);
  throw new FormatError(
    'OBD_FORMAT_LIMIT',
    `Cannot merge ${layers.length} layers of ${count} entries: ` +
      (merged === MergeFailure.NO_MEMORY
        ? 'not enough memory'
        : `the index may exceed ${MAX_MERGED_ENTRIES} entries, the most that are supported`),
    { expected: MAX_MERGED_ENTRIES, actual: count },
  );
}
