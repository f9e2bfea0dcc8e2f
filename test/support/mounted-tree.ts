/**
 * Compares a mounted filesystem with an expected tree of the golden images (`expected.json`), in every field: type, mode,
 * owner, times to the nanosecond, sizes, contents, link targets, devices, link groups and extended attributes.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  lstatSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  readlinkSync,
  type BigIntStats,
} from 'node:fs';

/** One path of an expected tree; the README of the golden images explains the fields. */
export interface ExpectedEntry {
  readonly path: string;
  readonly pathB64?: string;
  readonly type: 'reg' | 'dir' | 'symlink' | 'char' | 'block' | 'fifo';
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: { readonly s: number; readonly ns: number } | null;
  readonly mtimeLoose?: boolean;
  readonly size?: number;
  readonly sha256?: string;
  readonly target?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly nlink?: number;
  readonly linkGroup?: number;
  readonly xattrs?: Readonly<Record<string, string>>;
}

/** One thing that is not as expected. `field` is "presence" for a path that is missing or one too many. */
export interface TreeDifference {
  readonly path: string;
  readonly field: string;
  readonly expected: unknown;
  readonly actual: unknown;
}

/** Entries of an `expected.json` after the given layer, counted from 1. */
export function readExpectedTree(file: string, afterLayer: number): readonly ExpectedEntry[] {
  const document = JSON.parse(readFileSync(file, 'utf8')) as {
    trees: { afterLayer: number; entries: ExpectedEntry[] }[];
  };
  const tree = document.trees.find((candidate) => candidate.afterLayer === afterLayer);
  if (tree === undefined) throw new Error(`${file} has no tree after layer ${String(afterLayer)}`);
  return tree.entries;
}

/** Everything in which the tree at `root` differs from the expected one; `/lost+found` may exist. Needs root. */
export function compareTree(root: string, expected: readonly ExpectedEntry[]): TreeDifference[] {
  const differences: TreeDifference[] = [];
  const found = new Map<string, BigIntStats>();
  walk(Buffer.from(root), Buffer.from('/'), found);
  found.delete('/lost+found');
  const attributes = readAttributes(root);
  const inodeOfGroup = new Map<number, bigint>();
  for (const entry of expected) {
    // Paths need not be UTF-8: one byte is one character in the keys.
    const bytes =
      entry.pathB64 === undefined ? Buffer.from(entry.path) : Buffer.from(entry.pathB64, 'base64');
    const key = bytes.toString('latin1');
    const stat = found.get(key);
    found.delete(key);
    const check = (field: string, wanted: unknown, actual: unknown): void => {
      if (wanted !== actual) differences.push({ path: entry.path, field, expected: wanted, actual });
    };
    if (stat === undefined) {
      check('presence', true, false);
      continue;
    }
    check('type', entry.type, typeOf(stat));
    check('mode', entry.mode, (Number(stat.mode) & 0o7777).toString(8).padStart(4, '0'));
    check('uid', entry.uid, Number(stat.uid));
    check('gid', entry.gid, Number(stat.gid));
    if (entry.mtime !== null && entry.mtimeLoose !== true)
      check('mtime', BigInt(entry.mtime.s) * 1_000_000_000n + BigInt(entry.mtime.ns), stat.mtimeNs);
    if (typeOf(stat) !== entry.type) continue;
    const file = Buffer.concat([Buffer.from(root), bytes]);
    if (entry.size !== undefined) check('size', entry.size, Number(stat.size));
    if (entry.sha256 !== undefined) check('sha256', entry.sha256, sha256Of(file));
    if (entry.target !== undefined) check('target', entry.target, readlinkSync(file));
    if (entry.major !== undefined) check('major', entry.major, major(stat.rdev));
    if (entry.minor !== undefined) check('minor', entry.minor, minor(stat.rdev));
    if (entry.nlink !== undefined) check('nlink', entry.nlink, Number(stat.nlink));
    if (entry.linkGroup !== undefined) {
      const inode = inodeOfGroup.get(entry.linkGroup) ?? stat.ino;
      inodeOfGroup.set(entry.linkGroup, inode);
      check('linkGroup', inode, stat.ino);
    }
    check('xattrs', sortedJson(entry.xattrs ?? {}), sortedJson(attributes.get(key) ?? {}));
  }
  for (const path of found.keys())
    differences.push({ path, field: 'presence', expected: false, actual: true });
  return differences;
}

function walk(root: Buffer, path: Buffer, found: Map<string, BigIntStats>): void {
  const full = Buffer.concat([root, path]);
  const stat = lstatSync(full, { bigint: true });
  found.set(path.toString('latin1'), stat);
  if (!stat.isDirectory()) return;
  const prefix = path.length === 1 ? path : Buffer.concat([path, Buffer.from('/')]);
  for (const name of readdirSync(full, { encoding: 'buffer' }))
    walk(root, Buffer.concat([prefix, name]), found);
}

function typeOf(stat: BigIntStats): string {
  if (stat.isFile()) return 'reg';
  if (stat.isDirectory()) return 'dir';
  if (stat.isSymbolicLink()) return 'symlink';
  if (stat.isCharacterDevice()) return 'char';
  if (stat.isBlockDevice()) return 'block';
  return stat.isFIFO() ? 'fifo' : 'other';
}

/** Linux's encoding of a device number in stat(2). */
function major(device: bigint): number {
  return Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n));
}
function minor(device: bigint): number {
  return Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n));
}

function sha256Of(file: Buffer): string {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(1 << 20);
  const fd = openSync(file, 'r');
  try {
    for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) hash.update(buffer.subarray(0, n));
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex');
}

/** Extended attributes of every path below root that has any. Node cannot read them; Python can. */
function readAttributes(root: string): Map<string, Record<string, string>> {
  const program = `
import base64, json, os, sys
root = os.fsencode(sys.argv[1])
found = {}
def look(path):
    names = os.listxattr(root + path, follow_symlinks=False)
    if names:
        found[path.decode("latin1")] = {n: base64.b64encode(os.getxattr(root + path, n, follow_symlinks=False)).decode() for n in names}
look(b"/")
for directory, directories, files in os.walk(root):
    for name in directories + files:
        look(os.path.join(directory, name)[len(root):])
json.dump(found, sys.stdout)
`;
  const run = spawnSync('python3', ['-c', program, root], {
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  });
  if (run.status !== 0) throw new Error(`Cannot read extended attributes of ${root}: ${run.stderr}`);
  return new Map(Object.entries(JSON.parse(run.stdout) as Record<string, Record<string, string>>));
}

function sortedJson(record: Readonly<Record<string, string>>): string {
  return JSON.stringify(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}
