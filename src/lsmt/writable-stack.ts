/**
 * A writable layer over read-only ones, as one disk.
 *
 *   read     upper's map; its holes from the lowers' merged index; one list of pieces, read in parallel
 *   write    to the upper, widened to its unit (see below)
 *   discard  zeroes in the upper, hiding what is below
 *
 * A layer that remembers what it holds in units larger than a sector (a sparse file: blocks of its file system) would
 * hide the rest of a unit that is written in part. So where the upper does not hold a unit yet, the rest is brought
 * along from below (docs/adr/0010-sparse-writable-layers.md).
 */

import {
  checkRange,
  DeviceError,
  FormatError,
  SECTOR,
  type Extent,
  type ExtentMapped,
  type ReadOptions,
  type WritableBlob,
} from '../blob/index.js';
import { AppendLayer } from './append-layer.js';
import type { CompactOptions, CompactResult } from './compaction.js';
import type { DataFile, Layer } from './layer.js';
import { extentsOfIndex, mergedIndex, stackVirtualSize, type LayerStackOptions } from './layer-stack.js';
import { Epoch } from './epoch.js';
import { PageTable } from './page-table.js';
import type { Placement } from './placement.js';
import { RangeLock } from './range-lock.js';
import { HOLE, SegmentIndex, SegmentList } from './segment-index.js';
import { readSegments } from './segment-reader.js';
import { isSealable, type SealableLayer, type WritableLayer } from './writable-layer.js';
import type { RestackResult, RestackSteps } from './restack.js';

/** Most bytes widened or discarded in one step: bounds the memory of one call. */
const STEP = 1 << 20;
/** Bytes of the lowers' index looked at in one step. */
const WALK = 32 << 20;

/** Read-only layers with a writable one on top. Calls may overlap; overlapping ranges are kept in order. */
export class WritableLayerStack implements WritableBlob, ExtentMapped {
  readonly name: string;
  readonly size: number;
  #layers: readonly Layer[];
  #upper: WritableLayer;
  #lowerIndex: SegmentIndex;
  #files: readonly DataFile[];
  readonly #list = new SegmentList();
  readonly #upperList = new SegmentList();
  readonly #lowerList = new SegmentList();
  readonly #lock = new RangeLock();
  readonly #reads = new Epoch();
  /** While it is there, changes wait. */
  #held: Promise<void> | undefined;
  #inFlight = 0;
  #table: PageTable | undefined;
  #idle: (() => void) | undefined;
  #closed: Promise<void> | undefined;

  private constructor(layers: readonly Layer[], upper: WritableLayer, size: number, name: string) {
    const merged = mergedIndex(layers);
    this.#layers = layers;
    this.#upper = upper;
    this.size = size;
    this.name = name;
    this.#lowerIndex = merged.index;
    this.#files = [...merged.files, upper.file];
  }

  /** Bottom to top, without the upper. */
  get layers(): readonly Layer[] {
    return this.#layers;
  }

  get upper(): WritableLayer {
    return this.#upper;
  }

  /** The lowers' merged index. */
  get lowerIndex(): SegmentIndex {
    return this.#lowerIndex;
  }

  /** Files of the lowers by tag, topmost first, and last the upper's, as the reference numbers them. */
  get files(): readonly DataFile[] {
    return this.#files;
  }

  /**
   * Puts `upper` over `layers` (bottom to top; may be none). An upper that states no virtual size takes the stack's
   * and writes it down. Owns all of them once this succeeds.
   * @throws FormatError OBD_FORMAT_BAD_TRAILER if nothing states a virtual size, OBD_FORMAT_LIMIT; IoError.
   */
  static async open(
    layers: readonly Layer[],
    upper: WritableLayer,
    options: LayerStackOptions = {},
  ): Promise<WritableLayerStack> {
    const stated = upper.info.virtualSize;
    const size = options.virtualSize ?? (stated > 0 ? stated : stackVirtualSize(layers));
    const name = options.name ?? upper.name;
    if (size === 0)
      throw new FormatError(
        'OBD_FORMAT_BAD_TRAILER',
        `Cannot stack "${name}": virtual size is 0 in every layer, expected one to state it`,
        { source: name, expected: 'a size', actual: 0 },
      );
    const stack = new WritableLayerStack(layers, upper, size, name);
    if (stated === 0) await upper.adoptVirtualSize(size);
    await stack.#bringFirstUnit(upper);
    return stack;
  }

  /**
   * Where units are larger than the header of the upper's file, the first one is never a hole. What is below must be
   * in it from the start.
   */
  async #bringFirstUnit(upper: WritableLayer): Promise<void> {
    const end = Math.min(upper.unit + upper.unitOrigin, this.size);
    if (upper.readOnly || upper.unitOrigin >= 0 || this.#holds(0, end, upper)) return;
    const bytes = new Uint8Array(end);
    await this.#read(0, bytes);
    await upper.store(0, bytes);
  }

  /** Fills `out` with the pieces of a range; tags count in {@link files}. Synchronous. */
  lookup(lba: number, sectorCount: number, out: SegmentList): void {
    const own = this.#upperList;
    const below = this.#lowerList;
    const tag = this.files.length - 1;
    out.length = 0;
    this.upper.map.lookup(lba, sectorCount, own);
    for (let i = 0; i < own.length; i++) {
      const at = own.lba[i] ?? 0;
      const sectors = own.sectors[i] ?? 0;
      const kind = own.tag[i] ?? HOLE;
      if (kind !== HOLE) {
        out.push(at, sectors, own.moffset[i] ?? 0, kind === 0 ? tag : kind);
        continue;
      }
      this.lowerIndex.lookup(at, sectors, below);
      for (let j = 0; j < below.length; j++)
        out.push(below.lba[j] ?? 0, below.sectors[j] ?? 0, below.moffset[j] ?? 0, below.tag[j] ?? HOLE);
    }
  }

  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    checkRange(this, offset, into.byteLength);
    await this.#use(() => this.#reads.run(() => this.#read(offset, into, options)));
  }

  async #read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    if (into.byteLength === 0) return;
    const first = Math.floor(offset / SECTOR);
    const last = Math.ceil((offset + into.byteLength) / SECTOR);
    this.lookup(first, last - first, this.#list);
    await readSegments(this.#list, this.files, offset - first * SECTOR, into, options);
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#checkSectors(offset, from.byteLength);
    if (from.byteLength === 0) return;
    while (this.#held !== undefined) await this.#held;
    const [start, end] = this.#widen(offset, offset + from.byteLength);
    await this.#use(() =>
      this.#lock.with(start, end, async () => {
        const [from_, to] = this.#needed(offset, offset + from.byteLength, start, end);
        if (from_ === offset && to === offset + from.byteLength) {
          await this.upper.store(offset, from);
          return;
        }
        const wide = new Uint8Array(to - from_);
        await this.#read(from_, wide.subarray(0, offset - from_));
        const stop = offset + from.byteLength;
        await this.#read(stop, wide.subarray(stop - from_));
        wide.set(from, offset - from_);
        await this.upper.store(from_, wide);
      }),
    );
  }

  /** See {@link AppendLayer.place}; undefined if the upper is not of that kind. Nothing else may use the stack meanwhile. */
  place(): Placement | undefined {
    const { upper } = this;
    return upper instanceof AppendLayer && !upper.readOnly ? upper.place() : undefined;
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#checkSectors(offset, length);
    if (length === 0) return;
    while (this.#held !== undefined) await this.#held;
    const [start, end] = this.#widen(offset, offset + length);
    await this.#use(() => this.#lock.with(start, end, () => this.#zero(offset, length, start, end)));
  }

  async #zero(offset: number, length: number, start: number, end: number): Promise<void> {
    const { unit } = this.upper;
    const stop = offset + length;
    // Whole units in the middle; parts of a unit at the ends, which are written as zeroes.
    const head = start < offset ? Math.min(start + unit, stop) : offset;
    const tail = end > stop ? Math.max(end - unit, head) : stop;
    for (const [from, to] of [
      [offset, head],
      [tail, stop],
    ] as const) {
      if (from >= to) continue;
      const [wideStart, wideEnd] = this.#widen(from, to);
      const [a, b] = this.#needed(from, to, wideStart, wideEnd);
      const wide = new Uint8Array(b - a);
      await this.#read(a, wide);
      wide.fill(0, from - a, to - a);
      await this.upper.store(a, wide);
    }
    for (const run of this.#runsBelow(head, tail))
      await this.upper.zero(run.start, run.end - run.start, run.data);
  }

  /** [from, to) cut where the lowers change between data and none, on unit boundaries. */
  *#runsBelow(from: number, to: number): Generator<{ start: number; end: number; data: boolean }> {
    if (from >= to) return;
    if (this.upper.unit === SECTOR || this.lowerIndex.length === 0) {
      yield { start: from, end: to, data: false };
      return;
    }
    let last: { start: number; end: number; data: boolean } | undefined;
    const list = new SegmentList();
    for (let at = from; at < to;) {
      // Long stretches without data below are the common case; only around data is it worth going unit by unit.
      let next = Math.min(at + WALK, to);
      let data = this.#dataBelow(at, next, list);
      if (data) {
        next = Math.min(at + this.upper.unit, to);
        data = this.#dataBelow(at, next, list);
      }
      if (last?.data === data && (!data || next - last.start <= STEP)) last.end = next;
      else {
        if (last !== undefined) yield last;
        last = { start: at, end: next, data };
      }
      at = next;
    }
    if (last !== undefined) yield last;
  }

  #dataBelow(start: number, end: number, list: SegmentList): boolean {
    this.lowerIndex.lookup(start / SECTOR, (end - start) / SECTOR, list);
    for (let i = 0; i < list.length; i++) if ((list.tag[i] ?? HOLE) >= 0) return true;
    return false;
  }

  async flush(): Promise<void> {
    while (this.#held !== undefined) await this.#held;
    await this.#use(() => this.upper.flush());
  }

  /**
   * See {@link AppendLayer.compact}; undefined if the upper is not of that kind.
   * @param readsElsewherePassed settles when the reads by {@link pageTable} that are in flight now have ended.
   */
  async compact(
    options: CompactOptions = {},
    readsElsewherePassed: () => Promise<void> = async () => undefined,
  ): Promise<CompactResult | undefined> {
    const { upper } = this;
    if (!(upper instanceof AppendLayer)) return undefined;
    return upper.compact(options, async () => {
      await Promise.all([this.#reads.passed(), readsElsewherePassed()]);
    });
  }

  /**
   * Seals the upper where it lies, as the topmost lower, and puts another over it. Reads go on; writes, discards and flushes
   * wait, from the moment in which all that is written is on disk but for what came meanwhile. If this fails before `commit`
   * has settled, the disk is as it was and `next` still the caller's. The old upper is closed. Nothing may be compacting it.
   */
  async restack(steps: RestackSteps): Promise<RestackResult> {
    const old = this.#upper;
    if (this.#held !== undefined || !isSealable(old))
      throw new TypeError(`"${this.name}" is being restacked, or its upper cannot be sealed`);
    return this.#use(async () => {
      await old.flush();
      let release = (): void => undefined;
      this.#held = new Promise((resolve) => (release = resolve));
      const began = performance.now();
      try {
        await this.#lock.drain();
        await this.#restack(steps, old);
      } finally {
        this.#held = undefined;
        release();
      }
      const pauseMs = performance.now() - began;
      await Promise.all([this.#reads.passed(), steps.readsElsewherePassed()]);
      await old.close();
      return { pauseMs };
    });
  }

  async #restack({ next, reached, reopen, commit, adopt }: RestackSteps, old: SealableLayer): Promise<void> {
    const layers = [...this.#layers];
    let merged: ReturnType<typeof mergedIndex>;
    let sealed: Layer | undefined;
    await old.seal();
    try {
      await reached('sealed');
      sealed = await reopen();
      layers.push(sealed);
      merged = mergedIndex(layers);
      await this.#bringFirstUnit(next);
      await commit();
    } catch (error) {
      await sealed?.close();
      await old.unseal();
      throw error;
    }
    this.#layers = layers;
    this.#upper = next;
    this.#lowerIndex = merged.index;
    this.#files = [...merged.files, next.file];
    this.#table = undefined;
    await adopt();
  }

  /**
   * Where the upper has its pages, kept in step with it from the first call on; undefined if the disk is too large for
   * that, or the upper's file cannot be read by others. Who reads by it takes part in {@link compact}.
   */
  pageTable(): PageTable | undefined {
    if (this.#table === undefined) {
      this.#table = PageTable.create(Math.ceil(this.size / SECTOR));
      if (this.#table !== undefined) this.upper.map.showIn(this.#table);
    }
    return this.#table;
  }

  *extents(offset: number, length: number): Generator<Extent> {
    checkRange(this, offset, length);
    const end = Math.max(this.upper.map.end, this.lowerIndex.end);
    yield* extentsOfIndex({ lookup: this.lookup.bind(this), end }, offset, length);
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
      const closers = [this.upper, ...this.layers].map((layer) => layer.close());
      for (const result of await Promise.allSettled(closers))
        if (result.status === 'rejected') throw result.reason;
    })();
    return this.#closed;
  }

  /** A range widened to units, inside the disk. */
  #widen(start: number, end: number): [number, number] {
    const { unit, unitOrigin } = this.upper;
    if (unit === SECTOR) return [start, end];
    const down = Math.floor((start - unitOrigin) / unit) * unit + unitOrigin;
    const up = Math.ceil((end - unitOrigin) / unit) * unit + unitOrigin;
    return [Math.max(down, 0), Math.min(up, this.size)];
  }

  /** Which of the widened range must be stored: the rest of a unit only where the upper does not hold all of it. */
  #needed(start: number, end: number, wideStart: number, wideEnd: number): [number, number] {
    return [this.#holds(wideStart, start) ? start : wideStart, this.#holds(end, wideEnd) ? end : wideEnd];
  }

  #holds(start: number, end: number, upper = this.#upper): boolean {
    if (start >= end) return true;
    const list = this.#upperList;
    upper.map.lookup(Math.floor(start / SECTOR), Math.ceil((end - start) / SECTOR), list);
    for (let i = 0; i < list.length; i++) if (list.tag[i] === HOLE) return false;
    return true;
  }

  #checkSectors(offset: number, length: number): void {
    checkRange(this, offset, length);
    if (this.upper.readOnly)
      throw new DeviceError(
        'OBD_DEVICE_READ_ONLY',
        `Cannot write to "${this.name}": it is open for reading`,
        {
          source: this.name,
        },
      );
    if (offset % SECTOR !== 0 || length % SECTOR !== 0)
      throw new RangeError(`Range [${offset}, ${offset + length}) of "${this.name}" is not whole sectors`);
  }

  async #use<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed !== undefined) throw new TypeError(`Use of "${this.name}" after close`);
    this.#inFlight++;
    try {
      return await work();
    } finally {
      if (--this.#inFlight === 0) this.#idle?.();
    }
  }
}
