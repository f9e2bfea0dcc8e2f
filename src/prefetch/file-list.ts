/**
 * Lists of files to have at hand (service.md D.5): text, an absolute path per line. A path that ends in `/` or `*` means
 * everything below that directory. Where the files lie on the disk, its ext4 says, read in user space.
 */
import { FormatError, type ReadableBlob } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { FileType } from '../native/index.js';
import { DiskTree, type DiskName } from '../verify/index.js';

/** Longest list. */
export const MAX_LIST_BYTES = 64 << 10;
/** Bytes of the disk that are read at once. */
const STEP = 1 << 20;
/** Files of one list, directories unfolded: what a large image has; and how deep directories are followed. */
const MAX_FILES = 200_000;
const MAX_DEPTH = 128;
/** Pieces of all files of a list, so that shattered files do not fill the memory. */
const MAX_RANGES = 1_000_000;

/** A run of bytes of the disk. */
export interface DiskRange {
  readonly offset: number;
  readonly length: number;
}

/** A line of a list. */
export interface ListEntry {
  /** Its names, as byte strings; none for the root. */
  readonly names: readonly string[];
  /** All below it. */
  readonly tree: boolean;
}

/**
 * Reads a list. Empty lines are passed over; `.` and empty names too.
 * @throws FormatError OBD_FORMAT_LIMIT, or OBD_FORMAT_BAD_HEADER with the line if something is no absolute path.
 */
export function parseFileList(bytes: Uint8Array, source: string): ListEntry[] {
  if (bytes.byteLength > MAX_LIST_BYTES)
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot use prefetch list "${source}": it has ${bytes.byteLength} bytes, expected at most ${MAX_LIST_BYTES}`,
      {
        source,
        expected: MAX_LIST_BYTES,
        actual: bytes.byteLength,
        hint: 'Name directories: a line that ends in "/" means all below',
      },
    );
  const entries: ListEntry[] = [];
  const lines = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1').split('\n');
  for (const [i, raw] of lines.entries()) {
    const line = raw.replace(/^[ \t\r]+|[ \t\r]+$/g, '');
    if (line === '') continue;
    const names = line
      .replace(/\*$/, '')
      .split('/')
      .filter((name) => name !== '' && name !== '.');
    const hasControl = /[^ -\xff]/.test(line);
    if (
      !line.startsWith('/') ||
      hasControl ||
      names.includes('..') ||
      names.some(({ length }) => length > 255)
    )
      throw new FormatError(
        'OBD_FORMAT_BAD_HEADER',
        `Cannot use prefetch list "${source}": line ${i + 1} is ${JSON.stringify(line.slice(0, 80))}, expected an absolute path`,
        { source, offset: i + 1, hint: 'One path per line; a "/" or "*" at its end means all below' },
      );
    entries.push({ names, tree: /[/*]$/.test(line) });
  }
  return entries;
}

/** Where the files of a list are on the disk, in the order of the list; what is not there is logged and passed over. */
export async function findFiles(
  entries: readonly ListEntry[],
  disk: ReadableBlob,
  options: { readonly workDir: string; readonly log: Logger; readonly signal: AbortSignal },
): Promise<DiskRange[]> {
  const { log, signal } = options;
  const tree = await DiskTree.open(disk, options);
  const ranges: DiskRange[] = [];
  const seen = new Set<number>();
  const directories = new Map<number, readonly DiskName[]>();
  let missing = 0;
  const list = async (inode: number): Promise<readonly DiskName[]> => {
    signal.throwIfAborted();
    let names = directories.get(inode);
    if (names === undefined) {
      names = await tree.list(inode);
      // Paths share their first directories; those of whole trees are looked at once.
      if (directories.size < 256) directories.set(inode, names);
    }
    return names;
  };
  const add = async (found: Place, whole: boolean, depth: number): Promise<void> => {
    const type = found.mode & FileType.MASK;
    if (seen.size >= MAX_FILES || ranges.length >= MAX_RANGES || depth > MAX_DEPTH) return;
    if (type === FileType.FILE && !seen.has(found.inode)) {
      seen.add(found.inode);
      addRanges(found, disk.size, ranges);
    } else if (type === FileType.DIRECTORY && whole)
      for (const name of await list(found.inode)) await add(name, true, depth + 1);
  };
  try {
    for (const { names, tree: whole } of entries) {
      let at: Place | undefined = await tree.root();
      for (const name of names) {
        if (at === undefined || (at.mode & FileType.MASK) !== FileType.DIRECTORY) at = undefined;
        else at = (await list(at.inode)).find((entry) => entry.name === name);
      }
      if (at !== undefined) await add(at, whole, 0);
      else if (missing++ === 0)
        log.warn({ path: `/${names.join('/')}` }, 'a file to prefetch is not in the image');
    }
  } finally {
    await tree.close();
  }
  return ranges;
}

type Place = Pick<DiskName, 'inode' | 'mode' | 'size' | 'extents'>;

/** Whole sectors, in steps. */
function addRanges(
  { size, extents = new Float64Array() }: Place,
  diskSize: number,
  ranges: DiskRange[],
): void {
  for (let i = 0; i + 2 < extents.length; i += 3) {
    const offset = extents[i] ?? 0;
    const place = extents[i + 1] ?? 0;
    const length = Math.min(extents[i + 2] ?? 0, Math.ceil((size - offset) / 512) * 512);
    if (place < 0 || place + length > diskSize) continue;
    for (let done = 0; done < length; done += STEP)
      ranges.push({ offset: place + done, length: Math.min(STEP, length - done) });
  }
}
