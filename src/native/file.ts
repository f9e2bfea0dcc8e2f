import { getSystemErrorName } from 'node:util';
import { addon } from './addon.js';
import { systemError } from './system-error.js';

/** Kinds of advisory lock, as native/file.h numbers them. */
export const FileLock = { NONE: 0, SHARED: 1, EXCLUSIVE: 2 } as const;
/** One of {@link FileLock}. */
export type FileLock = (typeof FileLock)[keyof typeof FileLock];

/**
 * Takes, converts or drops the advisory lock of an open file. Never waits: false if another holder stands in the way,
 * and then the lock held before is still held, without a gap. The lock belongs to the open file description: two opens
 * of one file in one process exclude each other, and closing the descriptor drops it. A shared lock wants a descriptor
 * open for reading, an exclusive one for writing. Synchronous and quick. Wraps obd_file_lock.
 * @throws a system error, for example EBADF.
 */
export function lockFile(fd: number, kind: FileLock): boolean {
  const result = addon.fileLock(fd, kind);
  if (result === 0) return true;
  if (getSystemErrorName(result) === 'EAGAIN') return false;
  throw systemError(result, 'fcntl');
}

/**
 * Gives [offset, offset + length) back to the file system: it reads as zeroes, the size stays. Whole file system
 * blocks inside the range are freed, the rest is zeroed. Runs on the libuv pool. Wraps obd_file_punch.
 * @returns false, nothing changed, where the file system cannot make holes.
 * @throws a system error, for example ENOSPC or EIO.
 */
export async function punchHole(fd: number, offset: number, length: number): Promise<boolean> {
  return punched(await addon.filePunch(fd, offset, length));
}

/** {@link punchHole} on the calling thread; it may wait for the disk. Wraps obd_file_punch. */
export function punchHoleSync(fd: number, offset: number, length: number): boolean {
  return punched(addon.filePunchSync(fd, offset, length));
}

function punched(result: number): boolean {
  if (result === 0) return true;
  const name = getSystemErrorName(result);
  if (name === 'ENOTSUP' || name === 'EOPNOTSUPP' || name === 'ENOSYS') return false;
  throw systemError(result, 'fallocate');
}

/**
 * First byte at or after `offset` that is data, or undefined if only a hole follows (or the file ends). Where the file
 * system knows no holes, all is data. Synchronous. Moves the descriptor's file position: use positioned reads only.
 * Wraps obd_file_seek.
 */
export function seekData(fd: number, offset: number): number | undefined {
  return sought(addon.fileSeek(fd, offset, 0));
}

/**
 * First byte at or after `offset` that is in a hole; the end of the file counts as one. Undefined if `offset` is at or
 * after the end. Synchronous, moves the file position. Wraps obd_file_seek.
 */
export function seekHole(fd: number, offset: number): number | undefined {
  return sought(addon.fileSeek(fd, offset, 1));
}

function sought(result: number): number | undefined {
  if (result >= 0) return result;
  if (getSystemErrorName(result) === 'ENXIO') return undefined;
  throw systemError(result, 'lseek');
}

/**
 * The data extents of [from, to) of a file, in order: everything between them is a hole. Synchronous, one or two
 * system calls per extent; take them one at a time where a file may be fragmented.
 */
export function* dataExtents(
  fd: number,
  from: number,
  to: number,
): Generator<{ readonly offset: number; readonly length: number }> {
  for (let at = from; at < to;) {
    const start = seekData(fd, at);
    if (start === undefined || start >= to) return;
    const end = Math.min(seekHole(fd, start) ?? to, to);
    if (end <= start) return;
    yield { offset: start, length: end - start };
    at = end;
  }
}

/** Where bytes of an open file lie. */
export interface FilePosition {
  readonly fd: number;
  readonly offset: number;
}

/**
 * Copies bytes between files, inside the kernel where it can, on the libuv pool. Both descriptors stay open until the
 * promise settles. Wraps obd_file_copy.
 * @throws a system error; ENODATA if the source ends before.
 */
export async function copyFileRange(from: FilePosition, to: FilePosition, length: number): Promise<void> {
  const [result = 0] = await addon.fileCopy(from.fd, from.offset, to.fd, to.offset, length);
  if (result !== 0) throw systemError(result, 'copy_file_range');
}
