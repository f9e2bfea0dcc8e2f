/**
 * Merging layers: what a reader of the stack sees, as one sorted list (formats.md 1.5).
 *
 * Two lists merge in one pass: everything of the upper one, and of the lower one what shows through the holes. The
 * operation is associative, so k layers merge as a balanced tree of such passes: O(n log k), each pass a linear walk
 * over memory. A piece of a lower segment is one maximal run not covered from above, whatever the tree's shape, so
 * the result is that of the reference's recursive merge, entry for entry; neighbours are not joined.
 */

import { FormatError } from '../blob/index.js';
import { MAX_MERGED_ENTRIES } from './format.js';
import {
  isZeroed,
  MAX_TAGS,
  segmentLength,
  segmentMoffset,
  segmentStart,
  segmentTag,
  SEGMENT_WORDS,
  setSegment,
  type Segments,
} from './segment.js';

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
  const middle = layers.length >>> 1;
  return mergeTwo(mergeSegments(layers.slice(middle)), mergeSegments(layers.slice(0, middle)));
}

/** Everything of `upper`, and what of `lower` it leaves visible. O(upper + lower). */
export function mergeTwo(upper: Segments, lower: Segments): Segments {
  if (upper.count === 0) return lower;
  if (lower.count === 0) return upper;
  // Each upper segment cuts at most one lower segment into one more piece.
  const most = 2 * upper.count + lower.count;
  if (most > MAX_MERGED_ENTRIES)
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot merge layers: the index may reach ${most} entries, at most ${MAX_MERGED_ENTRIES} are supported`,
      { expected: MAX_MERGED_ENTRIES, actual: most },
    );
  const out = new Uint32Array(most * SEGMENT_WORDS);
  const uw = upper.words;
  const lw = lower.words;
  let n = 0;
  let l = 0;
  // Sector up to which lower segment `l` has been dealt with.
  let at = 0;
  for (let u = 0; u < upper.count; u++) {
    const start = segmentStart(uw, u);
    while (l < lower.count) {
      const from = segmentStart(lw, l);
      if (from >= start) break;
      const length = segmentLength(lw, l);
      const visible = Math.max(from, at);
      const stop = Math.min(from + length, start);
      if (visible < stop) n = clip(lw, l, from, visible, stop, out, n);
      if (from + length > start) break;
      l++;
    }
    copySegment(uw, u, out, n++);
    at = start + segmentLength(uw, u);
  }
  for (; l < lower.count; l++) {
    const from = segmentStart(lw, l);
    const stop = from + segmentLength(lw, l);
    const visible = Math.max(from, at);
    if (visible < stop) n = clip(lw, l, from, visible, stop, out, n);
  }
  return { words: out, count: n };
}

/** Appends [visible, stop) of lower segment `l`, which starts at `from`. */
function clip(
  lw: Uint32Array,
  l: number,
  from: number,
  visible: number,
  stop: number,
  out: Uint32Array,
  n: number,
): number {
  const zeroed = isZeroed(lw, l);
  const moffset = segmentMoffset(lw, l) + (zeroed ? 0 : visible - from);
  setSegment(out, n, visible, stop - visible, moffset, zeroed, segmentTag(lw, l));
  return n + 1;
}

function copySegment(from: Uint32Array, i: number, to: Uint32Array, n: number): void {
  const a = i * SEGMENT_WORDS;
  const b = n * SEGMENT_WORDS;
  to[b] = from[a] ?? 0;
  to[b + 1] = from[a + 1] ?? 0;
  to[b + 2] = from[a + 2] ?? 0;
  to[b + 3] = from[a + 3] ?? 0;
}
