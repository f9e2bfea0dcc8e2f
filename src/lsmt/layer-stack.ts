/**
 * A stack of layers seen as one disk: what containerd calls an image's device.
 *
 *   read(offset) -> merged index -> [file, moffset] pieces -> those files, in parallel; gaps and zeroed pieces -> zeroes
 *
 * The merged index is made once, when the stack is. Files are numbered from the top: the topmost layer has tag 0 (a
 * warp layer takes two numbers, itself and its target), as the reference numbers them.
 */

import {
  checkRange,
  FormatError,
  SECTOR,
  type Extent,
  type ExtentMapped,
  type ReadableBlob,
  type ReadOptions,
} from '../blob/index.js';
import type { DataFile, Layer } from './layer.js';
import { mergeSegments, shiftTags } from './merge-index.js';
import type { Segments } from './segment.js';
import { HOLE, SegmentIndex, SegmentList, type SegmentIndexData } from './segment-index.js';
import { readSegments } from './segment-reader.js';

/** Most layers of one stack: a layer's number has 8 bits on disk (formats.md 1.6). */
export const MAX_LAYERS = 255;

/** Layers merged: one index, and the files its tags name. */
export interface MergedLayers {
  /** Not yet indexed for lookup. */
  readonly segments: Segments;
  readonly files: readonly DataFile[];
}

/**
 * Merges layers given bottom to top (lowers are base-first, as in an image's configuration).
 * @throws FormatError OBD_FORMAT_LIMIT for more than 255 layers or too large an index.
 */
export function mergeLayers(layers: readonly Layer[]): MergedLayers {
  if (layers.length > MAX_LAYERS)
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot stack ${layers.length} layers, at most ${MAX_LAYERS} are supported`,
      {
        expected: MAX_LAYERS,
        actual: layers.length,
        hint: 'Merge some of the lower layers into one',
      },
    );
  const files: DataFile[] = [];
  const tagged: Segments[] = [];
  for (const layer of layers.toReversed()) {
    const segments = layer.index.segments();
    tagged.unshift(files.length === 0 ? segments : shiftTags(segments, files.length));
    files.push(...layer.files);
  }
  return { segments: mergeSegments(tagged), files };
}

/** A merge that was made, and of what. */
interface KnownMerge {
  readonly inputs: readonly SegmentIndexData[];
  readonly fileCounts: readonly number[];
  readonly index: WeakRef<SegmentIndex>;
}

/** By the topmost layer's index. What is equal is the same buffer (see `sharedCopy`), so buffers are compared. */
const knownMerges = new WeakMap<SharedArrayBuffer, KnownMerge[]>();

/**
 * As {@link mergeLayers}, indexed for lookup. Stacks of the same layers have one index, and only the first merges.
 * @throws FormatError as {@link mergeLayers}.
 */
export function mergedIndex(layers: readonly Layer[]): {
  readonly index: SegmentIndex;
  readonly files: readonly DataFile[];
} {
  const inputs = layers.map(({ index }) => index.data());
  const fileCounts = layers.map(({ files }) => files.length);
  const top = inputs.at(-1);
  const known = (top === undefined ? [] : (knownMerges.get(top.buffer) ?? [])).filter(
    ({ index }) => index.deref() !== undefined,
  );
  const same = known.find(
    (merge) =>
      merge.inputs.length === inputs.length &&
      merge.inputs.every((data, i) => sameIndex(data, inputs[i])) &&
      merge.fileCounts.every((count, i) => count === fileCounts[i]),
  );
  const found = same?.index.deref();
  if (found !== undefined) return { index: found, files: layers.toReversed().flatMap(({ files }) => files) };
  const { segments, files } = mergeLayers(layers);
  const index = SegmentIndex.build(segments);
  if (top !== undefined)
    knownMerges.set(top.buffer, [...known, { inputs, fileCounts, index: new WeakRef(index) }]);
  return { index, files };
}

function sameIndex(a: SegmentIndexData, b: SegmentIndexData | undefined): boolean {
  return a.buffer === b?.buffer && a.count === b.count && a.buckets === b.buckets && a.shift === b.shift;
}

/**
 * The stack's size rule: that of the topmost layer that states one; 0 if none does.
 * @param layers bottom to top.
 */
export function stackVirtualSize(layers: readonly Layer[]): number {
  return layers.findLast((layer) => layer.info.virtualSize > 0)?.info.virtualSize ?? 0;
}

/** Options of a stack. */
export interface LayerStackOptions {
  /** How errors name the stack; default is the topmost layer's name. */
  readonly name?: string;
  /** Overrides the size rule. */
  readonly virtualSize?: number;
}

/** Read-only layers as one disk. Reads may overlap and start at any byte. */
export class LayerStack implements ReadableBlob, ExtentMapped {
  readonly name: string;
  readonly size: number;
  /** Bottom to top. */
  readonly layers: readonly Layer[];
  /** Merged over all layers; tags count in {@link files}. */
  readonly index: SegmentIndex;
  /** Files by tag, topmost first. */
  readonly files: readonly DataFile[];
  readonly #list = new SegmentList();
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #closed: Promise<void> | undefined;

  /**
   * Merges the layers' indexes. The stack owns the layers once this succeeds. O(n log k) for n segments in k layers.
   * @param layers bottom to top.
   * @throws FormatError OBD_FORMAT_LIMIT; OBD_FORMAT_BAD_TRAILER if no layer states a virtual size.
   */
  constructor(layers: readonly Layer[], options: LayerStackOptions = {}) {
    const size = options.virtualSize ?? stackVirtualSize(layers);
    this.name = options.name ?? layers.at(-1)?.name ?? 'empty stack';
    if (size === 0)
      throw new FormatError(
        'OBD_FORMAT_BAD_TRAILER',
        `Cannot stack "${this.name}": virtual size is 0 in every layer, expected one to state it`,
        { source: this.name, expected: 'a size', actual: 0 },
      );
    const merged = mergedIndex(layers);
    this.size = size;
    this.layers = layers;
    this.files = merged.files;
    this.index = merged.index;
  }

  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    checkRange(this, offset, into.byteLength);
    if (this.#closed !== undefined) throw new TypeError(`Read of "${this.name}" after close`);
    if (into.byteLength === 0) return;
    const first = Math.floor(offset / SECTOR);
    const last = Math.ceil((offset + into.byteLength) / SECTOR);
    this.index.lookup(first, last - first, this.#list);
    this.#inFlight++;
    try {
      await readSegments(this.#list, this.files, offset - first * SECTOR, into, options);
    } finally {
      if (--this.#inFlight === 0) this.#idle?.();
    }
  }

  *extents(offset: number, length: number): Generator<Extent> {
    checkRange(this, offset, length);
    yield* extentsOfIndex(this.index, offset, length);
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
      const results = await Promise.allSettled(this.layers.map((layer) => layer.close()));
      for (const result of results) if (result.status === 'rejected') throw result.reason;
    })();
    return this.#closed;
  }
}

/** Sectors looked up at once while walking an index. */
const WALK_SECTORS = 1 << 16;

/** The runs of data and of zeroes that make up a range of bytes, maximal. Memory: one step of the walk. */
export function* extentsOfIndex(
  index: { lookup(lba: number, sectorCount: number, out: SegmentList): void; readonly end: number },
  offset: number,
  length: number,
): Generator<Extent> {
  const list = new SegmentList();
  const stop = offset + length;
  const lastSector = Math.min(Math.ceil(stop / SECTOR), index.end);
  let start = offset;
  let data = false;
  for (let at = Math.floor(offset / SECTOR); at < lastSector; at += WALK_SECTORS) {
    index.lookup(at, Math.min(WALK_SECTORS, lastSector - at), list);
    for (let i = 0; i < list.length; i++) {
      const isData = (list.tag[i] ?? HOLE) >= 0;
      if (isData === data) continue;
      const from = Math.max((list.lba[i] ?? 0) * SECTOR, offset);
      if (from > start) yield { offset: start, length: from - start, data };
      start = from;
      data = isData;
    }
  }
  if (data) {
    const end = Math.min(Math.max(lastSector * SECTOR, start), stop);
    if (end > start) yield { offset: start, length: end - start, data };
    start = end;
  }
  if (stop > start) yield { offset: start, length: stop - start, data: false };
}
