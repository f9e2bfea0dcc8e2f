/**
 * Answers on an I/O worker, synchronously, which local bytes make up a range of an image's device. Workers import this
 * module by its URL and call {@link createPlanner} with what {@link describeStack} made on the main thread
 * (docs/adr/0002-planner-is-posted-data.md).
 */
import {
  localFileOf,
  localOffset,
  SECTOR,
  type LocalFile,
  type ReadableBlob,
  type ReadPlan,
  type ReadPlanner,
} from '../blob/index.js';
import {
  Page,
  PAGE_SECTORS,
  SegmentIndex,
  SegmentList,
  WritableLayerStack,
  type LayerStack,
  type SegmentIndexData,
} from '../lsmt/index.js';
import { ZFilePlanner, ZFileReader, type ZFileDescription } from '../zfile/index.js';

/** One file of a stack, as plain data. `none`: never local, read the general way. */
export type FileDescription =
  | { readonly kind: 'raw'; readonly size: number; readonly file: LocalFile }
  | { readonly kind: 'zfile'; readonly size: number; readonly zfile: ZFileDescription }
  | { readonly kind: 'none' };

/** An image's device, as plain data over shared memory. */
export interface ImageDescription {
  readonly index: SegmentIndexData;
  readonly files: readonly FileDescription[];
  /** The writable layer on top; absent if there is none. */
  readonly upper?: { readonly pages: SharedArrayBuffer; readonly fd: number };
}

const PAGE = PAGE_SECTORS * SECTOR;

/** Most pieces of one command that are planned without growing: 1 MiB in pieces of one sector. */
const LIST_CAPACITY = 2048;

/**
 * The stack as plain data. Valid until the stack is closed. Undefined if the stack is writable and too large for a table
 * of its pages.
 */
export function describeStack(stack: LayerStack | WritableLayerStack): ImageDescription | undefined {
  const files = stack.files.map(({ blob }) => describeFile(blob));
  if (!(stack instanceof WritableLayerStack)) return { index: stack.index.data(), files };
  const pages = stack.pageTable();
  const upper = localFileOf(stack.upper.file.blob);
  if (pages === undefined || upper === undefined) return undefined;
  return { index: stack.lowerIndex.data(), files, upper: { pages: pages.buffer, fd: upper.fd } };
}

function describeFile(blob: ReadableBlob): FileDescription {
  if (blob instanceof ZFileReader) {
    const zfile = blob.describe();
    return zfile === undefined ? { kind: 'none' } : { kind: 'zfile', size: blob.size, zfile };
  }
  const file = localFileOf(blob);
  return file === undefined ? { kind: 'none' } : { kind: 'raw', size: blob.size, file };
}

/**
 * Something that plans ranges of one file. A range begins `skip` bytes into a sector: two small numbers, because an
 * argument beyond 2^31 would be an object, made for each call.
 */
interface FilePlanner {
  readonly size: number;
  append(sector: number, skip: number, length: number, destination: number, plan: ReadPlan): boolean;
}

class RawPlanner implements FilePlanner {
  readonly size: number;
  readonly #file: LocalFile;

  constructor(size: number, file: LocalFile) {
    this.size = size;
    this.#file = file;
  }

  append(sector: number, skip: number, length: number, destination: number, plan: ReadPlan): boolean {
    const at = localOffset(this.#file, sector * SECTOR + skip, length);
    return at >= 0 && plan.addRaw(this.#file.fd, at, length, destination);
  }
}

/** The range is not local in a file that never is. */
const NOWHERE: FilePlanner = { size: 0, append: () => false };

/** Pieces of one range, of whichever planner of this thread is asked: each is done with it before it answers. */
const list = new SegmentList(LIST_CAPACITY);

/** Read-only layers. */
class StackPlanner implements ReadPlanner {
  readonly #index: SegmentIndex;
  readonly #files: readonly FilePlanner[];

  constructor(description: ImageDescription) {
    this.#index = SegmentIndex.from(description.index);
    this.#files = description.files.map((file) => {
      switch (file.kind) {
        case 'raw':
          return new RawPlanner(file.size, file.file);
        case 'zfile':
          return new ZFilePlanner(file.zfile);
        case 'none':
          return NOWHERE;
      }
    });
  }

  plan(range: Float64Array, at: number, plan: ReadPlan): boolean {
    const offset = range[at] ?? 0;
    const length = range[at + 1] ?? 0;
    const first = Math.floor(offset / SECTOR);
    return length === 0 || this.append(first, offset - first * SECTOR, length, 0, plan);
  }

  /** The same, of the range that begins `skip` bytes into sector `first`, with destinations from `destination` on. */
  append(first: number, skip: number, length: number, destination: number, plan: ReadPlan): boolean {
    const before = plan.length;
    this.#index.lookup(first, Math.ceil((skip + length) / SECTOR), list);
    for (let i = 0, done = 0; i < list.length && done < length;) {
      const tag = list.tag[i] ?? -1;
      const head = i === 0 ? skip : 0;
      const source = tag < 0 ? 0 : (list.moffset[i] ?? 0);
      let sectors = list.sectors[i] ?? 0;
      // Neighbours in one file, and neighbouring zeroes, are one run.
      for (i++; i < list.length; i++) {
        const next = list.tag[i] ?? -1;
        if (tag < 0 ? next >= 0 : next !== tag || list.moffset[i] !== source + sectors) break;
        sectors += list.sectors[i] ?? 0;
      }
      const run = Math.min(sectors * SECTOR - head, length - done);
      if (!this.#append(tag, source, head, run, destination + done, plan)) {
        plan.length = before;
        return false;
      }
      done += run;
    }
    return true;
  }

  #append(
    tag: number,
    source: number,
    skip: number,
    length: number,
    destination: number,
    plan: ReadPlan,
  ): boolean {
    if (tag < 0) return plan.addZeroes(length, destination);
    const file = this.#files[tag];
    // What reaches beyond the file is padding or an error: the general way knows which.
    return (
      file !== undefined &&
      source * SECTOR + skip + length <= file.size &&
      file.append(source, skip, length, destination, plan)
    );
  }
}

/** A writable layer on read-only ones. Its pages change while this looks: each is read once. */
class WritablePlanner implements ReadPlanner {
  readonly #lowers: StackPlanner;
  readonly #pages: Uint32Array;
  readonly #fd: number;

  constructor(description: ImageDescription, pages: SharedArrayBuffer, fd: number) {
    this.#lowers = new StackPlanner(description);
    this.#pages = new Uint32Array(pages);
    this.#fd = fd;
  }

  plan(range: Float64Array, index: number, plan: ReadPlan): boolean {
    const before = plan.length;
    const pages = this.#pages;
    const offset = range[index] ?? 0;
    const end = offset + (range[index + 1] ?? 0);
    let page = Math.floor(offset / PAGE);
    let place = pages[page] ?? Page.MIXED;
    for (let at = offset; at < end;) {
      const first = page;
      const start = place;
      const step = start >= PAGE_SECTORS ? PAGE_SECTORS : 0;
      // As many pages as go on in the same manner.
      do place = ++page * PAGE < end ? (pages[page] ?? Page.MIXED) : Page.MIXED;
      while (page * PAGE < end && place === start + (page - first) * step);
      const stop = Math.min(page * PAGE, end);
      if (!this.#append(start, first, at - first * PAGE, stop - at, at - offset, plan)) {
        plan.length = before;
        return false;
      }
      at = stop;
    }
    return true;
  }

  /** `skip` bytes into a page. */
  #append(
    place: number,
    page: number,
    skip: number,
    length: number,
    destination: number,
    plan: ReadPlan,
  ): boolean {
    switch (place) {
      case Page.BELOW: {
        const sector = Math.floor(skip / SECTOR);
        return this.#lowers.append(
          page * PAGE_SECTORS + sector,
          skip - sector * SECTOR,
          length,
          destination,
          plan,
        );
      }
      case Page.ZEROES:
        return plan.addZeroes(length, destination);
      case Page.MIXED:
        return false;
      default:
        return plan.addRaw(this.#fd, place * SECTOR + skip, length, destination);
    }
  }
}

/** Makes a planner; called in every I/O worker that serves the device. */
export function createPlanner(description: ImageDescription): ReadPlanner {
  const { upper } = description;
  return upper === undefined
    ? new StackPlanner(description)
    : new WritablePlanner(description, upper.pages, upper.fd);
}
