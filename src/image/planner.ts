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
import { SegmentIndex, SegmentList, type LayerStack, type SegmentIndexData } from '../lsmt/index.js';
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
}

/** Most pieces of one command that are planned without growing: 1 MiB in pieces of one sector. */
const LIST_CAPACITY = 2048;

/** The stack as plain data. Valid until the stack is closed. */
export function describeStack(stack: LayerStack): ImageDescription {
  return { index: stack.index.data(), files: stack.files.map(({ blob }) => describeFile(blob)) };
}

function describeFile(blob: ReadableBlob): FileDescription {
  if (blob instanceof ZFileReader) {
    const zfile = blob.describe();
    return zfile === undefined ? { kind: 'none' } : { kind: 'zfile', size: blob.size, zfile };
  }
  const file = localFileOf(blob);
  return file === undefined ? { kind: 'none' } : { kind: 'raw', size: blob.size, file };
}

/** Something that plans ranges of one file. */
interface FilePlanner {
  readonly size: number;
  append(offset: number, length: number, destination: number, plan: ReadPlan): boolean;
}

class RawPlanner implements FilePlanner {
  readonly size: number;
  readonly #file: LocalFile;

  constructor(size: number, file: LocalFile) {
    this.size = size;
    this.#file = file;
  }

  append(offset: number, length: number, destination: number, plan: ReadPlan): boolean {
    const at = localOffset(this.#file, offset, length);
    return at >= 0 && plan.addRaw(this.#file.fd, at, length, destination);
  }
}

/** The range is not local in a file that never is. */
const NOWHERE: FilePlanner = { size: 0, append: () => false };

class ImagePlanner implements ReadPlanner {
  readonly #index: SegmentIndex;
  readonly #files: readonly FilePlanner[];
  readonly #list = new SegmentList(LIST_CAPACITY);

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

  plan(offset: number, length: number, plan: ReadPlan): boolean {
    if (length === 0) return true;
    const before = plan.length;
    const list = this.#list;
    const first = Math.floor(offset / SECTOR);
    this.#index.lookup(first, Math.ceil((offset + length) / SECTOR) - first, list);
    const skip = offset - first * SECTOR;
    for (let i = 0, done = 0; i < list.length && done < length;) {
      const tag = list.tag[i] ?? -1;
      const head = i === 0 ? skip : 0;
      const source = tag < 0 ? 0 : (list.moffset[i] ?? 0) * SECTOR + head;
      let run = (list.sectors[i] ?? 0) * SECTOR - head;
      // Neighbours in one file, and neighbouring zeroes, are one run.
      for (i++; i < list.length; i++) {
        const next = list.tag[i] ?? -1;
        if (tag < 0 ? next >= 0 : next !== tag || (list.moffset[i] ?? 0) * SECTOR !== source + run) break;
        run += (list.sectors[i] ?? 0) * SECTOR;
      }
      run = Math.min(run, length - done);
      if (!this.#append(tag, source, run, done, plan)) {
        plan.length = before;
        return false;
      }
      done += run;
    }
    return true;
  }

  #append(tag: number, source: number, length: number, destination: number, plan: ReadPlan): boolean {
    if (tag < 0) return plan.addZeroes(length, destination);
    const file = this.#files[tag];
    // What reaches beyond the file is padding or an error: the general way knows which.
    return (
      file !== undefined && source + length <= file.size && file.append(source, length, destination, plan)
    );
  }
}

/** Makes a planner; called in every I/O worker that serves the device. */
export function createPlanner(description: ImageDescription): ReadPlanner {
  return new ImagePlanner(description);
}
