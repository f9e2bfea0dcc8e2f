import { constants } from 'node:fs';
import { open, rm, stat, type FileHandle } from 'node:fs/promises';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { CacheError } from '../blob/index.js';
import { dataExtents, FileLock, lockFile } from '../native/index.js';
import { Sidecar, sidecarPath } from './sidecar.js';
import { UnitFile } from './unit-file.js';

/** Units of blobs of which it is known what will be read: a page. */
export const EXACT_UNIT = 4096;

/** What is to be cached in one file. */
export interface UnitFileOptions {
  /** Bytes of the blob. */
  readonly size: number;
  /** Bytes of a unit, for a new file. */
  readonly unitSize: number;
  /** Largest unit of a file that is there already and is used as it is. Default `unitSize`: no other. */
  readonly maxUnitSize?: number;
  /** How long to wait for a process that holds the blob exclusively, which it does for moments. Default 5 s. */
  readonly lockTimeoutMs?: number;
}

/**
 * Opens or makes the file of a blob. A file without a valid sidecar, or with one for another size or unit, holds
 * unknown bytes and starts over; but if another process is using the blob with another unit size, so do we.
 * @throws CacheError OBD_CACHE_IO if the lock is not to be had, or another process has it open with another size.
 * @throws errors of node:fs
 */
export async function openUnitFile(path: string, options: UnitFileOptions): Promise<UnitFile> {
  const timeout = options.lockTimeoutMs ?? 5000;
  const deadline = performance.now() + timeout;
  for (;;) {
    const data = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    let file: UnitFile | undefined;
    try {
      if (!(await data.stat()).isFile())
        throw new CacheError('OBD_CACHE_IO', `Cannot cache in "${path}": not a regular file`, {
          source: path,
        });
      const alone = lockFile(data.fd, FileLock.EXCLUSIVE);
      if ((alone || lockFile(data.fd, FileLock.SHARED)) && (await isNamed(data, path)))
        file = await (alone ? openAlone(path, data, options) : openBeside(path, data, options));
    } finally {
      if (!file) await data.close();
    }
    if (file) return file;
    if (performance.now() > deadline)
      throw new CacheError(
        'OBD_CACHE_IO',
        `Cannot use cached blob "${path}": another process has held its lock for ${timeout} ms`,
        { source: path },
      );
    await sleep(20);
  }
}

/** With the exclusive lock: whatever is wrong is put right, then the lock becomes shared. */
async function openAlone(
  path: string,
  data: FileHandle,
  { size, unitSize, maxUnitSize = unitSize }: UnitFileOptions,
): Promise<UnitFile> {
  let sidecar = await Sidecar.open(sidecarPath(path));
  try {
    if (
      sidecar?.header.blobSize !== size ||
      !usableUnit(sidecar.header.unitSize, unitSize, maxUnitSize) ||
      (await data.stat()).size !== size
    ) {
      await sidecar?.close();
      // First nothing is present, then the bytes go.
      sidecar = undefined;
      sidecar = await Sidecar.create(sidecarPath(path), { blobSize: size, unitSize });
      await data.truncate(0);
      await data.truncate(size);
    }
    const file = await UnitFile.load(path, data, sidecar);
    await tidy(file);
    return file;
  } catch (error) {
    await sidecar?.close();
    throw error;
  }
}

/**
 * The unit asked for; the cache's own (a blob that was fetched in large units is not fetched again in small ones); or the
 * small ones of an image whose reads were foretold.
 */
function usableUnit(found: number, wanted: number, most: number): boolean {
  return found === wanted || found === most || found === EXACT_UNIT;
}

/** With the shared lock: another process has the blob open. Undefined if it is just making it. */
async function openBeside(
  path: string,
  data: FileHandle,
  { size }: UnitFileOptions,
): Promise<UnitFile | undefined> {
  const sidecar = await Sidecar.open(sidecarPath(path));
  if (!sidecar) return undefined;
  try {
    if (sidecar.header.blobSize !== size)
      throw new CacheError(
        'OBD_CACHE_IO',
        `Cannot use cached blob "${path}": another process has it open with ${sidecar.header.blobSize} bytes, expected ${size}`,
        { source: path, expected: size, actual: sidecar.header.blobSize },
      );
    return await UnitFile.load(path, data, sidecar);
  } catch (error) {
    await sidecar.close();
    throw error;
  }
}

/**
 * Compares the sidecar with the file system. A present unit with a hole in it was taken away by somebody else (an
 * administrator, the reference's eviction): it becomes absent. Data of absent units is what a crash cut off, and is
 * given back.
 */
async function tidy(file: UnitFile): Promise<void> {
  const { unitSize, unitCount } = file;
  const gone = new Set<number>();
  const stray = new Set<number>();
  let at = 0;
  const each = (from: number, to: number, visit: (unit: number) => void): void => {
    const end = Math.min(Math.ceil(to / unitSize), unitCount);
    for (let unit = Math.floor(from / unitSize); unit < end; unit++) visit(unit);
  };
  const hole = (unit: number): void => {
    if (file.has(unit)) gone.add(unit);
  };
  const data = (unit: number): void => {
    if (!file.has(unit)) stray.add(unit);
  };
  let steps = 0;
  for (const { offset, length } of dataExtents(file.fd, 0, file.size)) {
    if (offset > at) each(at, offset, hole);
    each(offset, offset + length, data);
    at = offset + length;
    // Two system calls each; a file may be in thousands of pieces.
    if (++steps % 256 === 0) await nextTurn();
  }
  if (file.size > at) each(at, file.size, hole);
  file.tryExclusive();
  await file.drop([...gone]);
  if (stray.size > 0) await file.evict([...stray], async () => undefined);
  file.share();
}

/**
 * Removes a blob that nobody has open, data and sidecar. Never waits.
 * @returns false, nothing done, if somebody has it open. @throws errors of node:fs
 */
export async function removeUnitFile(path: string): Promise<boolean> {
  let data: FileHandle;
  try {
    data = await open(path, constants.O_RDWR | constants.O_NOFOLLOW);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return true;
    throw error;
  }
  try {
    if (!lockFile(data.fd, FileLock.EXCLUSIVE)) return false;
    if (!(await isNamed(data, path))) return true;
    // The data's name goes last: until then whoever opens the blob meets our lock.
    await rm(sidecarPath(path), { force: true });
    await rm(path, { force: true });
    return true;
  } finally {
    await data.close();
  }
}

/** Whether the open file is still the one of that name: it may have been removed between open and lock. */
export async function isNamed(handle: FileHandle, path: string): Promise<boolean> {
  const mine = await handle.stat();
  try {
    const named = await stat(path);
    return mine.ino === named.ino && mine.dev === named.dev;
  } catch {
    return false;
  }
}
