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
import { MAX_TAGS, MOFFSET_HIGH, segmentTag, SEGMENT_WORDS, ZEROED_BIT, type Segments } from './segment.js';

const TWO32 = 2 ** 32;

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
  const uEnd = upper.count * SEGMENT_WORDS;
  const lEnd = lower.count * SEGMENT_WORDS;
  // u, l, n count words. This is the loop that opens a stack: fields are read in place, once each.
  let n = 0;
  let l = 0;
  /** The lower segment `l`, and how far it has been dealt with. */
  let from = wordStart(lw, 0);
  let stop = from + ((lw[1] ?? 0) >>> 18);
  for (let u = 0; u < uEnd; u += SEGMENT_WORDS) {
    const u1 = uw[u + 1] ?? 0;
    const start = (u1 & 0x3ffff) * TWO32 + (uw[u] ?? 0);
    const end = start + (u1 >>> 18);
    while (from < start) {
      if (stop <= start) {
        n = clip(lw, l, from, stop, out, n);
        l += SEGMENT_WORDS;
        from = l < lEnd ? wordStart(lw, l) : Infinity;
        stop = from + ((lw[l + 1] ?? 0) >>> 18);
      } else {
        n = clip(lw, l, from, start, out, n);
        from = start;
      }
    }
    out[n] = uw[u] ?? 0;
    out[n + 1] = u1;
    out[n + 2] = uw[u + 2] ?? 0;
    out[n + 3] = uw[u + 3] ?? 0;
    n += SEGMENT_WORDS;
    // What this one hides.
    while (from < end) {
      if (stop > end) from = end;
      else {
        l += SEGMENT_WORDS;
        from = l < lEnd ? wordStart(lw, l) : Infinity;
        stop = from + ((lw[l + 1] ?? 0) >>> 18);
      }
    }
  }
  while (l < lEnd) {
    n = clip(lw, l, from, stop, out, n);
    l += SEGMENT_WORDS;
    from = l < lEnd ? wordStart(lw, l) : Infinity;
    stop = from + ((lw[l + 1] ?? 0) >>> 18);
  }
  return { words: out, count: n / SEGMENT_WORDS };
}

/** First sector of the segment whose words begin at `at`. */
function wordStart(words: Uint32Array, at: number): number {
  return ((words[at + 1] ?? 0) & 0x3ffff) * TWO32 + (words[at] ?? 0);
}

/** Appends [from, stop) of the lower segment whose words begin at `l`; returns the new end of `out`. */
function clip(lw: Uint32Array, l: number, from: number, stop: number, out: Uint32Array, n: number): number {
  const cut = from - wordStart(lw, l);
  const w3 = lw[l + 3] ?? 0;
  out[n] = from; // ToUint32 keeps the low half
  out[n + 1] = (from / TWO32) | 0 | ((stop - from) << 18);
  if (cut === 0 || (w3 & ZEROED_BIT) !== 0) {
    out[n + 2] = lw[l + 2] ?? 0;
    out[n + 3] = w3;
  } else {
    const moffset = (w3 & MOFFSET_HIGH) * TWO32 + (lw[l + 2] ?? 0) + cut;
    out[n + 2] = moffset;
    out[n + 3] = (moffset / TWO32) | 0 | (w3 & ~MOFFSET_HIGH);
  }
  return n + SEGMENT_WORDS;
}
