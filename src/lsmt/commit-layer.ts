/**
 * Writing a sealed layer that holds live data only, in ascending order (formats.md 2.5 and 2.7).
 *
 *   header (flags 7) | data | index, padded to 256 entries | trailer (flags 6)
 *
 * Byte-identical to the reference for the same mapping: data is cut into pieces of 64 sectors, pieces that continue
 * each other are joined while the result stays below 16383 sectors, so the seams fall where the reference's do. For a writable
 * layer pieces are counted from where its data begins to be continuous, rather than from where each write began: that is the
 * same for writes of whole pieces (32 KiB) and for runs of less than 8 MiB, and beyond it the content alone decides.
 * The index depends on the mapping alone, so it is laid out first: a layer that readers would refuse is not begun.
 * Memory: the index (16 bytes an entry, at most 1,000,000) and two copy buffers.
 */

import { abortedError, FormatError, SECTOR, type ByteSink } from '../blob/index.js';
import { encodeHeader, HEADER_SECTORS, HeaderFlag, MAX_SEALED_ENTRIES } from './format.js';
import type { DataFile, Layer, LayerInfo } from './layer.js';
import { mergeLayers, stackVirtualSize } from './layer-stack.js';
import {
  isZeroed,
  MAX_SEGMENT_SECTORS,
  PADDING_OFFSET,
  segmentLength,
  segmentMoffset,
  segmentStart,
  segmentTag,
  SEGMENT_SIZE,
  SEGMENT_WORDS,
  setDiskEntry,
  type Segments,
} from './segment.js';
import { SegmentList } from './segment-index.js';
import { readSegments } from './segment-reader.js';

/** What is committed: a mapping, the files it points into, and the fields it brings along. */
export interface CommitSource {
  readonly name: string;
  readonly info: Pick<LayerInfo, 'virtualSize' | 'parentUuid'>;
  /** Sorted and disjoint. */
  segments(): Segments;
  /** By tag. */
  readonly files: readonly DataFile[];
  /**
   * Segments that continue each other are one, wherever a write ended: the result depends on the content, not on how it was
   * written. For layers that are written to; others keep their seams, as the reference keeps them.
   */
  readonly seamless?: boolean;
  /** The tag on disk of each file; absent: all 0. */
  readonly diskTags?: readonly number[];
}

/** Fields of the layer to write, and limits that tests make small. */
export interface CommitOptions {
  /** Default: null. */
  readonly uuid?: string | null;
  /** Default: the source's. */
  readonly parentUuid?: string | null;
  /** At most 256 bytes; default none. */
  readonly userTag?: Uint8Array;
  /** Default: the source's. */
  readonly virtualSize?: number;
  readonly signal?: AbortSignal;
  readonly limits?: CommitLimits;
}

/** Constants of the layout. */
export interface CommitLimits {
  /** Sectors of one copied piece: 64. */
  readonly pieceSectors: number;
  /** A joined entry stays below this: 16383. */
  readonly maxSectors: number;
  /** Entries that the index is padded to a multiple of: 256. */
  readonly indexUnit: number;
  /** Most entries, padding included: 1,000,000. */
  readonly maxEntries: number;
}

const LIMITS: CommitLimits = {
  pieceSectors: 64,
  maxSectors: MAX_SEGMENT_SECTORS,
  indexUnit: 256,
  maxEntries: MAX_SEALED_ENTRIES,
};

/** What was written. */
export interface CommitResult {
  /** Bytes of the whole file. */
  readonly size: number;
  /** Bytes of data. */
  readonly dataSize: number;
  /** Entries without padding. */
  readonly entries: number;
}

/** A layer as something to commit: sealed ones are compacted, warp ones flattened. */
export function layerSource(layer: Layer): CommitSource {
  return { name: layer.name, info: layer.info, files: layer.files, segments: () => layer.index.segments() };
}

/**
 * Several layers as one to commit (merge, flatten). The size is that of the topmost layer that states one, the parent
 * that of the bottom one. On disk each entry keeps the number of its layer, 0 at the top, as the reference writes it;
 * readers ignore it.
 * @param layers bottom to top.
 */
export function mergedSource(layers: readonly Layer[]): CommitSource {
  const merged = mergeLayers(layers);
  return {
    name: layers.at(-1)?.name ?? 'empty stack',
    info: { virtualSize: stackVirtualSize(layers), parentUuid: layers[0]?.info.parentUuid ?? null },
    files: merged.files,
    diskTags: layers.toReversed().flatMap((layer, i) => layer.files.map(() => i)),
    segments: () => merged.segments,
  };
}

/** An index as it will stand on disk. */
export interface CommitLayout extends Segments {
  /** Sectors of data. */
  readonly dataSectors: number;
}

/**
 * Lays out the index of a commit, without padding. O(data / 32 KiB).
 * @param source see {@link CommitSource}.
 */
export function layoutCommit(
  segments: Segments,
  source: Pick<CommitSource, 'diskTags' | 'seamless'> = {},
  limits: CommitLimits = LIMITS,
): CommitLayout {
  const { diskTags, seamless } = source;
  const { words, count } = segments;
  const out = new EntryJoiner(limits.maxSectors);
  let at = HEADER_SECTORS;
  for (let i = 0; i < count; i++) {
    const start = segmentStart(words, i);
    const zeroed = isZeroed(words, i);
    const tag = diskTags?.[segmentTag(words, i)] ?? 0;
    let end = start + segmentLength(words, i);
    for (; seamless === true && i + 1 < count; i++) {
      if (segmentStart(words, i + 1) !== end || isZeroed(words, i + 1) !== zeroed) break;
      end += segmentLength(words, i + 1);
    }
    const most = zeroed ? limits.maxSectors : limits.pieceSectors;
    for (let lba = start; lba < end;) {
      const piece = Math.min(most, end - lba);
      out.add(lba, piece, at, zeroed, tag);
      lba += piece;
      if (!zeroed) at += piece;
    }
  }
  return { ...out.finish(), dataSectors: at - HEADER_SECTORS };
}

/** Collects on-disk entries and joins those that continue each other. */
class EntryJoiner {
  readonly #maxSectors: number;
  #words = new Uint32Array(1024 * SEGMENT_WORDS);
  #count = 0;
  #offset = 0;
  #length = 0;
  #moffset = 0;
  #zeroed = false;
  #tag = 0;

  constructor(maxSectors: number) {
    this.#maxSectors = maxSectors;
  }

  add(offset: number, length: number, moffset: number, zeroed: boolean, tag: number): void {
    const mend = this.#zeroed ? this.#moffset : this.#moffset + this.#length;
    if (
      this.#length > 0 &&
      this.#offset + this.#length === offset &&
      mend === moffset &&
      this.#zeroed === zeroed &&
      this.#tag === tag &&
      this.#length + length < this.#maxSectors
    ) {
      this.#length += length;
      return;
    }
    this.#emit();
    this.#offset = offset;
    this.#length = length;
    this.#moffset = moffset;
    this.#zeroed = zeroed;
    this.#tag = tag;
  }

  finish(): Segments {
    this.#emit();
    this.#length = 0;
    return { words: this.#words, count: this.#count };
  }

  #emit(): void {
    if (this.#length === 0) return;
    if ((this.#count + 1) * SEGMENT_WORDS > this.#words.length) {
      const grown = new Uint32Array(this.#words.length * 2);
      grown.set(this.#words);
      this.#words = grown;
    }
    setDiskEntry(this.#words, this.#count++, {
      offset: this.#offset,
      length: this.#length,
      moffset: this.#moffset,
      zeroed: this.#zeroed,
      tag: this.#tag,
    });
  }
}

/**
 * Writes a sealed layer to `sink`. The source must not change meanwhile.
 * @throws FormatError OBD_FORMAT_LIMIT, before anything is written, if the index would be too large for readers.
 * @throws TypeError or RangeError for a malformed uuid or user tag.
 */
export async function commitLayer(
  source: CommitSource,
  sink: ByteSink,
  options: CommitOptions = {},
): Promise<CommitResult> {
  const limits = options.limits ?? LIMITS;
  const segments = source.segments();
  const layout = layoutCommit(segments, source, limits);
  const indexCount = Math.ceil(layout.count / limits.indexUnit) * limits.indexUnit;
  if (indexCount > limits.maxEntries)
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot commit layer "${source.name}": its index needs ${layout.count} entries, readers accept ${limits.maxEntries}`,
      {
        source: source.name,
        expected: limits.maxEntries,
        actual: layout.count,
        hint: 'Split the changes over several layers',
      },
    );
  const fields = {
    virtualSize: options.virtualSize ?? source.info.virtualSize,
    uuid: options.uuid ?? null,
    parentUuid: options.parentUuid === undefined ? source.info.parentUuid : options.parentUuid,
    ...(options.userTag === undefined ? {} : { userTag: options.userTag }),
  };
  const { HEADER, DATA, SEALED } = HeaderFlag;
  await sink.write(encodeHeader({ ...fields, flags: HEADER | DATA | SEALED }));
  await copyData(source, segments, sink, options.signal);
  const indexOffset = (HEADER_SECTORS + layout.dataSectors) * SECTOR;
  await sink.write(paddedIndex(layout, indexCount));
  const trailer = encodeHeader({ ...fields, flags: DATA | SEALED, indexOffset, indexCount });
  await sink.write(trailer);
  return {
    size: indexOffset + indexCount * SEGMENT_SIZE + trailer.byteLength,
    dataSize: layout.dataSectors * SECTOR,
    entries: layout.count,
  };
}

function paddedIndex(layout: Segments, indexCount: number): Uint8Array {
  const words = new Uint32Array(indexCount * SEGMENT_WORDS);
  words.set(layout.words.subarray(0, layout.count * SEGMENT_WORDS));
  for (let i = layout.count; i < indexCount; i++)
    setDiskEntry(words, i, { offset: PADDING_OFFSET, length: 0, moffset: 0, zeroed: false, tag: 0 });
  return new Uint8Array(words.buffer);
}

/** Sectors of one copy buffer: 1 MiB. Two of them: one is read while the other is written. */
const COPY_SECTORS = 2048;

async function copyData(
  source: CommitSource,
  segments: Segments,
  sink: ByteSink,
  signal: AbortSignal | undefined,
): Promise<void> {
  const buffers = [new Uint8Array(COPY_SECTORS * SECTOR), new Uint8Array(COPY_SECTORS * SECTOR)] as const;
  const options = signal === undefined ? undefined : { signal };
  const list = new SegmentList();
  let turn = 0;
  let writing: Promise<void> = Promise.resolve();
  try {
    for (const sectors of batches(segments, list)) {
      const buffer = buffers[turn === 0 ? 0 : 1].subarray(0, sectors * SECTOR);
      turn ^= 1;
      await readSegments(list, source.files, 0, buffer, options);
      await writing;
      if (signal?.aborted === true) throw abortedError(`commit of layer "${source.name}"`, signal);
      writing = sink.write(buffer);
      // Its failure is reported by the await above or below; until then it is not unhandled.
      writing.catch(() => undefined);
    }
  } finally {
    await writing;
  }
}

/** Fills `list` with the next data pieces, {@link COPY_SECTORS} at most; yields their sectors. */
function* batches(segments: Segments, list: SegmentList): Generator<number> {
  const { words, count } = segments;
  let filled = 0;
  list.length = 0;
  for (let i = 0; i < count; i++) {
    if (isZeroed(words, i)) continue;
    const start = segmentStart(words, i);
    const length = segmentLength(words, i);
    for (let done = 0; done < length;) {
      const piece = Math.min(length - done, COPY_SECTORS - filled);
      list.push(start + done, piece, segmentMoffset(words, i) + done, segmentTag(words, i));
      done += piece;
      filled += piece;
      if (filled === COPY_SECTORS) {
        yield filled;
        filled = 0;
        list.length = 0;
      }
    }
  }
  if (filled > 0) yield filled;
}
