/**
 * The thread of disk-tree.ts: has the ext4 of a disk open and answers what is in its directories. The image's calls wait
 * for blocks that the other thread reads, so it must be another one.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { OverlaybdError, type ErrorCode } from '../blob/index.js';
import { Ext4Image, FileType, type InodeStat } from '../native/index.js';

/** What the thread is started with. */
export interface DiskJob {
  readonly workDir: string;
  readonly size: number;
  /** The image's end of a source pair. */
  readonly fd: number;
  readonly runs: Float64Array;
}

/** An inode with everything but its content. */
export interface DiskInode extends InodeStat {
  /** Flat pairs: name as a byte string, value. */
  readonly xattrs: readonly (string | Uint8Array)[];
  /** Of a symbolic link. */
  readonly target: string;
  /** Of a file, as {@link Ext4Image.extents}. */
  readonly extents: Float64Array | undefined;
}

/** A name in a directory. */
export interface DiskName extends DiskInode {
  readonly name: string;
}

/** Asks for a directory's names, or, with `itself`, for what it is; 0 ends the thread. */
export interface DiskQuestion {
  readonly directory: number;
  readonly itself: boolean;
}

/** Answers come in the order of the questions; the first says whether the image could be opened. */
export type DiskAnswer =
  | { readonly names: readonly DiskName[] }
  | { readonly failed: { readonly code?: ErrorCode; readonly message: string; readonly hint?: string } };

if (parentPort === null) throw new TypeError('disk-worker is a thread, not a program');
const port = parentPort;

function failed(error: unknown): DiskAnswer {
  const known = error instanceof OverlaybdError;
  return {
    failed: {
      message: error instanceof Error ? error.message : String(error),
      ...(known && { code: error.code }),
      ...(known && error.hint !== undefined && { hint: error.hint }),
    },
  };
}

function inodeOf(image: Ext4Image, inode: number): DiskInode {
  const stat = image.stat(inode);
  const type = stat.mode & FileType.MASK;
  return {
    ...stat,
    xattrs: [...image.xattrs(inode)].flat(),
    target: type === FileType.SYMLINK ? image.readlink(inode) : '',
    extents: type === FileType.FILE && stat.size > 0 ? image.extents(inode) : undefined,
  };
}

async function open({ workDir, size, fd, runs }: DiskJob): Promise<Ext4Image | undefined> {
  try {
    const image = await Ext4Image.open(workDir, size, fd, runs);
    port.postMessage({ names: [] } satisfies DiskAnswer);
    return image;
  } catch (error) {
    port.postMessage(failed(error));
    return undefined;
  }
}

const image = await open(workerData as DiskJob);
if (image !== undefined)
  port.on('message', ({ directory, itself }: DiskQuestion) => {
    if (directory === 0) {
      image.close();
      port.close();
      return;
    }
    try {
      const names = itself
        ? [{ name: '', ...inodeOf(image, directory) }]
        : image.readdir(directory).map(({ name, inode }) => ({ name, ...inodeOf(image, inode) }));
      port.postMessage({ names } satisfies DiskAnswer);
    } catch (error) {
      port.postMessage(failed(error));
    }
  });
