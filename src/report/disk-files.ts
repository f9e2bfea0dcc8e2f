/**
 * The files that were read: an image's ext4 is walked in user space, and where its files lie is held against the runs of
 * the disk. Memory: the files that were read or fetched, no others.
 */
import type { ReadableBlob } from '../blob/index.js';
import { DiskTree } from '../verify/index.js';
import { eachRun } from './disk-map.js';
import { MAX_FILES, type DiskRun, type FileReport, type FilesReport, type ReadEvent } from './report-data.js';

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
/** Directories on the way to be listed, and names seen twice, at most: an image with more is not walked to its end. */
const MAX_PENDING = 1_000_000;

/** Where a file's content lies that was read or fetched. */
export interface FileStretch {
  readonly offset: number;
  readonly length: number;
  readonly path: string;
}

/** What the walk found. */
export interface WalkedFiles {
  readonly report: Omit<FilesReport, 'unavailable'>;
  /** Ascending. */
  readonly stretches: readonly FileStretch[];
}

/** A name's bytes as text that shows what it is: no control characters, and nothing that turns the line around. */
export function showName(name: string): string {
  return Buffer.from(name, 'latin1')
    .toString('utf8')
    .replace(
      // eslint-disable-next-line no-control-regex -- they are what is looked for
      /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
      (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
    );
}

/**
 * Walks a disk's ext4. @throws what DiskTree.open throws if it holds none that can be read.
 * @param options.workDir where a work file goes that holds metadata.
 */
export async function walkFiles(
  disk: ReadableBlob,
  runs: readonly DiskRun[],
  reads: readonly ReadEvent[],
  options: { readonly workDir: string; readonly signal?: AbortSignal },
): Promise<WalkedFiles> {
  const tree = await DiskTree.open(disk, options);
  const files: FileReport[] = [];
  const stretches: FileStretch[] = [];
  const linked = new Set<number>();
  let count = 0;
  try {
    const pending: { inode: number; path: string }[] = [{ inode: 2, path: '' }];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      for (const node of await tree.list(next.inode)) {
        const path = `${next.path}/${showName(node.name)}`;
        const type = node.mode & S_IFMT;
        if (type === S_IFDIR && pending.length < MAX_PENDING) pending.push({ inode: node.inode, path });
        if (type !== S_IFREG) continue;
        if (node.links > 1) {
          if (linked.has(node.inode)) continue;
          if (linked.size < MAX_PENDING) linked.add(node.inode);
        }
        count++;
        const file = fileReport(path, node.size, node.extents, runs, stretches);
        if (file !== undefined) files.push(file);
      }
    }
  } finally {
    await tree.close();
  }
  stretches.sort((a, b) => a.offset - b.offset);
  const first = firstReads(reads, stretches);
  const inFiles = files.reduce((sum, { readBytes }) => sum + readBytes, 0);
  const inAll = runs.reduce((sum, { read, length }) => sum + (read ? length : 0), 0);
  files.sort(
    (a, b) => b.readBytes - a.readBytes || b.fetchedBytes - a.fetchedBytes || (a.path < b.path ? -1 : 1),
  );
  return {
    stretches,
    report: {
      count,
      readCount: files.filter(({ readBytes }) => readBytes > 0).length,
      files: files.slice(0, MAX_FILES).map((file) => ({ ...file, firstRead: first.get(file.path) })),
      otherReadBytes: Math.max(0, inAll - inFiles),
    },
  };
}

/** Undefined if nothing of the file was read or fetched. */
function fileReport(
  path: string,
  size: number,
  extents: Float64Array = new Float64Array(),
  runs: readonly DiskRun[],
  stretches: FileStretch[],
): FileReport | undefined {
  let readBytes = 0;
  let fetchedBytes = 0;
  const byLayer = new Map<number, number>();
  const touched: FileStretch[] = [];
  for (let i = 0; i + 2 < extents.length; i += 3) {
    const place = extents[i + 1] ?? 0;
    const length = extents[i + 2] ?? 0;
    const before = readBytes + fetchedBytes;
    eachRun(runs, place, place + length, (run, _, from, to) => {
      byLayer.set(run.layer, (byLayer.get(run.layer) ?? 0) + to - from);
      if (run.read) readBytes += to - from;
      if (run.cause !== 'local') fetchedBytes += to - from;
    });
    if (readBytes + fetchedBytes > before) touched.push({ offset: place, length, path });
  }
  if (touched.length === 0) return undefined;
  stretches.push(...touched);
  const [layer = 0] = [...byLayer].sort((a, b) => b[1] - a[1])[0] ?? [];
  return { path, size, readBytes, fetchedBytes, layer, firstRead: undefined };
}

/** The file that a place of the disk belongs to. @param stretches ascending */
export function fileAt(stretches: readonly FileStretch[], offset: number): string | undefined {
  let low = 0;
  let high = stretches.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((stretches[middle]?.offset ?? 0) <= offset) low = middle + 1;
    else high = middle;
  }
  const found = stretches[low - 1];
  return found !== undefined && offset < found.offset + found.length ? found.path : undefined;
}

function firstReads(reads: readonly ReadEvent[], stretches: readonly FileStretch[]): Map<string, number> {
  const first = new Map<string, number>();
  for (const { at, offset, length } of reads)
    // A read goes over several files where they are small.
    for (let place = offset; place < offset + length; place += 4096) {
      const path = fileAt(stretches, place);
      if (path !== undefined && !first.has(path)) first.set(path, at);
    }
  return first;
}
