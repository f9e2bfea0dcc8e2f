import type { Dirent } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ioError, isSystemError } from '../blob/index.js';
import type { DiskUsage } from './records.js';

/** Of stat's `blocks`. */
const BLOCK = 512;

/**
 * What a tree takes on disk, directories and the root itself included, a file with several names once. What vanishes while
 * it looks does not count. O(files), one system call at a time: never in a hurry, never in the way.
 * @param skip a directory that does not count, for example one where something is mounted.
 * @throws IoError
 */
export async function diskUsage(root: string, skip?: string): Promise<DiskUsage> {
  const seen = new Set<string>();
  let size = 0;
  const pending = [root];
  const account = async (path: string): Promise<void> => {
    const { dev, ino, blocks } = await lstat(path);
    const inode = `${dev}:${ino}`;
    if (seen.has(inode)) return;
    seen.add(inode);
    size += blocks * BLOCK;
  };
  try {
    for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
      await gone(account(dir), undefined);
      for (const entry of await gone<Dirent[]>(readdir(dir, { withFileTypes: true }), [])) {
        const path = join(dir, entry.name);
        if (path === skip) continue;
        if (entry.isDirectory()) pending.push(path);
        else await gone(account(path), undefined);
      }
    }
  } catch (error) {
    throw ioError(error, `measure "${root}"`, root);
  }
  return { size, inodes: seen.size };
}

/** What `work` gives, or `instead` if the file is not there any more. */
async function gone<T>(work: Promise<T>, instead: T): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (isSystemError(error) && error.code === 'ENOENT') return instead;
    throw error;
  }
}
