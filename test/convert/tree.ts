import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Ext4Image, FileType, type FileTime } from '../../src/native/index.js';

/** One path of `expected.json`; see the README of the golden images. */
export interface TreeEntry {
  path: string;
  pathB64?: string;
  type: string;
  mode: string;
  uid: number;
  gid: number;
  mtime: { s: number; ns: number } | null;
  mtimeLoose?: boolean;
  implicit?: boolean;
  size?: number;
  sha256?: string;
  target?: string;
  major?: number;
  minor?: number;
  nlink?: number;
  linkGroup?: number;
  xattrs?: Record<string, string>;
}

interface ExpectedTrees {
  readonly trees: readonly { readonly afterLayer: number; readonly entries: readonly TreeEntry[] }[];
}

/** The tree that a golden `expected.json` states after a layer, by path as a byte string. */
export function expectedTree(path: string, afterLayer: number): Map<string, TreeEntry> {
  const { trees } = JSON.parse(readFileSync(path, 'utf8')) as ExpectedTrees;
  const tree = trees.find((each) => each.afterLayer === afterLayer);
  assert.ok(tree, `${path} has no tree after layer ${afterLayer}`);
  return new Map(
    tree.entries.map((entry) => [
      entry.pathB64 === undefined
        ? Buffer.from(entry.path, 'utf8').toString('latin1')
        : Buffer.from(entry.pathB64, 'base64').toString('latin1'),
      entry,
    ]),
  );
}

const TYPE_NAMES = new Map<number, string>([
  [FileType.FILE, 'reg'],
  [FileType.DIRECTORY, 'dir'],
  [FileType.SYMLINK, 'symlink'],
  [FileType.CHAR, 'char'],
  [FileType.BLOCK, 'block'],
  [FileType.FIFO, 'fifo'],
]);

async function contentDigest(image: Ext4Image, inode: number, size: number): Promise<string> {
  const hash = createHash('sha256');
  const buffer = new Uint8Array(1024 * 1024);
  for (let at = 0; at < size;) {
    const got = await image.read(inode, at, buffer);
    assert.ok(got > 0, `file of inode ${inode} ends at ${at} of ${size}`);
    hash.update(buffer.subarray(0, got));
    at += got;
  }
  return hash.digest('hex');
}

/** Everything in an image, in the form of `expected.json`, by path as a byte string. Without /lost+found. */
export async function imageTree(image: Ext4Image): Promise<Map<string, TreeEntry & { inode: number }>> {
  const tree = new Map<string, TreeEntry & { inode: number }>();
  const time = ({ seconds, nanoseconds }: FileTime) => ({ s: seconds, ns: nanoseconds });
  const walk = async (path: string, inode: number): Promise<void> => {
    const stat = image.stat(inode);
    const type = TYPE_NAMES.get(stat.mode & FileType.MASK) ?? 'unknown';
    assert.deepEqual(stat.atime, stat.mtime, path);
    const entry: TreeEntry & { inode: number } = {
      path,
      inode,
      type,
      mode: (stat.mode & 0o7777).toString(8).padStart(4, '0'),
      uid: stat.uid,
      gid: stat.gid,
      mtime: time(stat.mtime),
    };
    const xattrs = image.xattrs(inode);
    if (xattrs.size > 0)
      entry.xattrs = Object.fromEntries(
        [...xattrs].map(([name, value]) => [
          Buffer.from(name, 'latin1').toString('utf8'),
          Buffer.from(value).toString('base64'),
        ]),
      );
    if (type !== 'dir') entry.nlink = stat.links;
    if (type === 'reg') {
      entry.size = stat.size;
      entry.sha256 = await contentDigest(image, inode, stat.size);
    } else if (type === 'symlink') {
      entry.size = stat.size;
      entry.target = Buffer.from(image.readlink(inode), 'latin1').toString('utf8');
    } else if (type === 'char' || type === 'block') {
      entry.major = stat.major;
      entry.minor = stat.minor;
    }
    tree.set(path, entry);
    if (type !== 'dir') return;
    for (const { name, inode: child } of image.readdir(inode))
      if (path !== '/' || name !== 'lost+found')
        await walk(path === '/' ? `/${name}` : `${path}/${name}`, child);
  };
  await walk('/', Ext4Image.ROOT);
  return tree;
}

/** Fails unless the image's tree is the expected one in every field. */
export async function assertTree(
  image: Ext4Image,
  expected: ReadonlyMap<string, TreeEntry>,
  label: string,
): Promise<void> {
  const actual = await imageTree(image);
  const problems: string[] = [];
  for (const path of actual.keys()) if (!expected.has(path)) problems.push(`${path}: unexpected`);
  const groups = new Map<number, number>();
  for (const [path, want] of expected) {
    const have = actual.get(path);
    if (have === undefined) {
      problems.push(`${path}: missing`);
      continue;
    }
    for (const key of [
      'type',
      'mode',
      'uid',
      'gid',
      'size',
      'sha256',
      'target',
      'major',
      'minor',
      'nlink',
    ] as const)
      if (want[key] !== undefined && want[key] !== have[key])
        problems.push(`${path}: ${key} is ${String(have[key])}, expected ${String(want[key])}`);
    if (
      want.mtime !== null &&
      want.mtimeLoose !== true &&
      JSON.stringify(have.mtime) !== JSON.stringify(want.mtime)
    )
      problems.push(
        `${path}: mtime is ${JSON.stringify(have.mtime)}, expected ${JSON.stringify(want.mtime)}`,
      );
    const sorted = (xattrs: Record<string, string> = {}): string =>
      JSON.stringify(Object.entries(xattrs).sort());
    if (sorted(have.xattrs) !== sorted(want.xattrs))
      problems.push(`${path}: xattrs are ${sorted(have.xattrs)}, expected ${sorted(want.xattrs)}`);
    if (want.linkGroup !== undefined) {
      const inode = groups.get(want.linkGroup);
      if (inode !== undefined && inode !== have.inode) problems.push(`${path}: not linked with its group`);
      groups.set(want.linkGroup, have.inode);
    }
  }
  if (new Set(groups.values()).size !== groups.size) problems.push('two link groups share an inode');
  assert.deepEqual(problems, [], label);
}

/** Fails unless e2fsck finds nothing at all to say against the image. */
export function assertClean(image: Ext4Image): void {
  const fsck = spawnSync('e2fsck', ['-fn', `/proc/${process.pid}/fd/${image.fd}`], { encoding: 'utf8' });
  assert.equal(fsck.status, 0, fsck.stdout + fsck.stderr);
}
