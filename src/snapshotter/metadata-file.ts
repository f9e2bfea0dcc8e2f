/**
 * A look at an LMDB file before LMDB gets it: LMDB believes its file, and a damaged one ends the process with a signal that
 * nobody can catch. Both meta pages must be what LMDB writes, and the file as long as the newer one says.
 *
 * Source: struct MDB_page and MDB_meta in the mdb.c of the package `lmdb`, whose pages begin with 24 bytes of their own.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { SnapshotError } from '../blob/index.js';

const META = { magic: 24, version: 28, pageSize: 48, lastPage: 144, transaction: 152, end: 160 } as const;
const MAGIC = 0xbeefc0de;
const VERSION = 2;
const PAGE_SIZES: readonly number[] = [4096, 8192, 16384, 32768, 65536];

/**
 * Passes over a file that is not there, or is empty: LMDB makes it anew.
 * @throws SnapshotError OBD_SNAPSHOT_METADATA if the file is damaged; errors of node:fs.
 */
export function checkMetadataFile(path: string): void {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  try {
    const { size } = fstatSync(fd);
    if (size === 0) return;
    const bad = (what: string, offset: number, expected: unknown, actual: unknown): SnapshotError =>
      new SnapshotError(
        'OBD_SNAPSHOT_METADATA',
        `Cannot use "${path}": ${what} at offset ${offset} is ${String(actual)}, expected ${String(expected)}`,
        {
          source: path,
          offset,
          hint: 'The file is damaged. Put back a copy of it; or move it away, remove the images from containerd, and pull them again',
        },
      );
    const page = Buffer.alloc(META.end);
    let pageSize = 0;
    let newest = { transaction: -1n, lastPage: 0n, offset: 0 };
    for (let i = 0; i < 2; i++) {
      const start = i * pageSize;
      page.fill(0);
      readSync(fd, page, 0, page.length, start);
      const magic = page.readUInt32LE(META.magic);
      if (magic !== MAGIC)
        throw bad(
          'the magic number',
          start + META.magic,
          `0x${MAGIC.toString(16)}`,
          `0x${magic.toString(16)}`,
        );
      const version = page.readUInt32LE(META.version);
      if (version !== VERSION) throw bad('the version', start + META.version, VERSION, version);
      const found = page.readUInt32LE(META.pageSize);
      if (!PAGE_SIZES.includes(found) || (i === 1 && found !== pageSize))
        throw bad(
          'the page size',
          start + META.pageSize,
          i === 0 ? PAGE_SIZES.join(' or ') : pageSize,
          found,
        );
      pageSize = found;
      const transaction = page.readBigUInt64LE(META.transaction);
      if (transaction > newest.transaction)
        newest = {
          transaction,
          lastPage: page.readBigUInt64LE(META.lastPage),
          offset: start + META.lastPage,
        };
    }
    const pages = BigInt(Math.floor(size / pageSize));
    if (newest.lastPage >= pages)
      throw bad('the number of the last page', newest.offset, `less than ${pages}`, newest.lastPage);
  } finally {
    closeSync(fd);
  }
}
