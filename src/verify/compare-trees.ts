/**
 * What layers describe against what a disk holds, name by name. Directories are taken one at a time, files' content a few
 * at a time; so memory is that of the expected tree and one directory.
 */
import { FileType } from '../native/index.js';
import type { TarTime } from '../tar/index.js';
import type { DiskTree } from './disk-tree.js';
import type { DiskInode, DiskName } from './disk-worker.js';
import type { LayerTree, NodeType, TreeNode } from './layer-tree.js';

/** In what a name can differ. */
export const DIFFERENCE_KINDS = [
  'missing',
  'unexpected',
  'type',
  'mode',
  'uid',
  'gid',
  'mtime',
  'xattr',
  'device',
  'target',
  'size',
  'content',
  'link',
] as const;
/** One of {@link DIFFERENCE_KINDS}. */
export type DifferenceKind = (typeof DIFFERENCE_KINDS)[number];

/** One thing that is not as the layers say. Texts of names are byte strings. */
export interface Difference {
  readonly path: string;
  /** Number of the layer that says what is expected, 0 at the bottom; undefined for what no layer has. */
  readonly layer: number | undefined;
  readonly kind: DifferenceKind;
  readonly expected: string;
  readonly found: string;
}

/** What a comparison came to. */
export interface Comparison {
  /** Names compared. */
  readonly names: number;
  /** Bytes of content compared, holes included; files with several names once. */
  readonly bytes: number;
  /** In the order of paths, at most as many as were asked for. */
  readonly differences: readonly Difference[];
  /** How many there are in all. */
  readonly count: number;
}

/** How to compare. */
export interface CompareOptions {
  /** Differences that are kept. */
  readonly limit: number;
  readonly ignore?: ReadonlySet<DifferenceKind>;
}

/** Files whose content is being read. */
const FILES_AT_ONCE = 8;
const LOST_AND_FOUND = 'lost+found';

const TYPES: Readonly<Record<number, NodeType>> = {
  [FileType.FILE]: 'file',
  [FileType.DIRECTORY]: 'directory',
  [FileType.SYMLINK]: 'symlink',
  [FileType.CHAR]: 'char',
  [FileType.BLOCK]: 'block',
  [FileType.FIFO]: 'fifo',
};

/** Compares everything. @throws what reading the disk throws */
export async function compareTrees(
  expected: LayerTree,
  disk: DiskTree,
  options: CompareOptions,
): Promise<Comparison> {
  const work = new TreeComparison(disk, options);
  await work.run(expected.root);
  return work.result();
}

interface Directory {
  readonly path: string;
  readonly node: TreeNode;
  readonly inode: number;
}

class TreeComparison {
  readonly #disk: DiskTree;
  readonly #options: CompareOptions;
  readonly #found: (Difference & { readonly order: number })[] = [];
  readonly #reading = new Set<Promise<void>>();
  /** Both sides of files with several names, by first path. */
  readonly #inodes = new Map<TreeNode, { inode: number; path: string }>();
  readonly #nodes = new Map<number, { node: TreeNode; path: string }>();
  #count = 0;
  #names = 0;
  #bytes = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(disk: DiskTree, options: CompareOptions) {
    this.#disk = disk;
    this.#options = options;
  }

  result(): Comparison {
    const differences = this.#found
      .sort((a, b) => a.order - b.order)
      .map(({ path, layer, kind, expected, found }) => ({ path, layer, kind, expected, found }));
    return { names: this.#names, bytes: this.#bytes, differences, count: this.#count };
  }

  async run(root: TreeNode): Promise<void> {
    try {
      const found = await this.#disk.root();
      this.#attributes('/', root, found);
      const todo: Directory[] = [{ path: '', node: root, inode: found.inode }];
      for (let next = todo.pop(); next !== undefined; next = todo.pop())
        todo.push(...(await this.#directory(next)).reverse());
    } finally {
      await Promise.all(this.#reading);
    }
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  /** Compares a directory's names; gives the directories among them that both sides have. */
  async #directory({ path, node, inode }: Directory): Promise<Directory[]> {
    const found = new Map((await this.#disk.list(inode)).map((name) => [name.name, name]));
    const below: Directory[] = [];
    for (const [name, { node: child }] of node.children ?? []) {
      const childPath = `${path}/${name}`;
      this.#names++;
      const there = found.get(name);
      found.delete(name);
      if (there === undefined) this.#report(childPath, child, 'missing', child.type, 'nothing');
      else if (await this.#name(childPath, child, there))
        below.push({ path: childPath, node: child, inode: there.inode });
    }
    for (const { name, mode } of found.values())
      if (path !== '' || name !== LOST_AND_FOUND)
        this.#report(`${path}/${name}`, undefined, 'unexpected', 'nothing', typeOf(mode));
    return below;
  }

  /** Compares what a name leads to; true if both are directories. */
  async #name(path: string, node: TreeNode, found: DiskName): Promise<boolean> {
    const type = typeOf(found.mode);
    if (type !== node.type) {
      this.#report(path, node, 'type', node.type, type);
      return false;
    }
    if (type === 'directory') {
      this.#attributes(path, node, found);
      return true;
    }
    if (!this.#links(path, node, found)) return false;
    this.#attributes(path, node, found);
    if (type === 'symlink' && node.target !== found.target)
      this.#report(path, node, 'target', node.target, found.target);
    if ((type === 'char' || type === 'block') && (node.major !== found.major || node.minor !== found.minor))
      this.#report(path, node, 'device', `${node.major}:${node.minor}`, `${found.major}:${found.minor}`);
    if (type === 'file') {
      if (node.size !== found.size) this.#report(path, node, 'size', `${node.size}`, `${found.size}`);
      else await this.#content(path, node, found);
    }
    return false;
  }

  /** Compares which names lead to the same; false if what they lead to was compared already. */
  #links(path: string, node: TreeNode, { inode }: DiskName): boolean {
    const firstInode = this.#inodes.get(node);
    const firstNode = this.#nodes.get(inode);
    if (firstInode === undefined) this.#inodes.set(node, { inode, path });
    if (firstNode === undefined) this.#nodes.set(inode, { node, path });
    if (firstInode !== undefined && firstInode.inode !== inode)
      this.#report(path, node, 'link', `the same file as ${firstInode.path}`, 'another file');
    else if (firstNode !== undefined && firstNode.node !== node)
      this.#report(path, node, 'link', 'a file of its own', `the same file as ${firstNode.path}`);
    return firstInode?.inode !== inode;
  }

  #attributes(path: string, node: TreeNode, found: DiskInode): void {
    // What no entry describes may have any.
    if (!node.described) return;
    const octal = (mode: number): string => (mode & 0o7777).toString(8).padStart(4, '0');
    const differs = (kind: DifferenceKind, expected: string, actual: string): void => {
      if (expected !== actual) this.#report(path, node, kind, expected, actual);
    };
    differs('mode', octal(node.mode), octal(found.mode));
    differs('uid', String(node.uid), String(found.uid));
    differs('gid', String(node.gid), String(found.gid));
    differs('mtime', timeText(clamped(node.mtime)), timeText(found.mtime));
    const actual = new Map<string, Uint8Array>();
    for (let i = 0; i + 1 < found.xattrs.length; i += 2) {
      const value = found.xattrs[i + 1];
      if (value instanceof Uint8Array) actual.set(String(found.xattrs[i]), value);
    }
    for (const name of new Set([...node.xattrs.keys(), ...actual.keys()])) {
      const [wanted, there] = [node.xattrs.get(name), actual.get(name)];
      if (wanted === undefined || there === undefined || Buffer.compare(wanted, there) !== 0)
        this.#report(path, node, 'xattr', xattrText(name, wanted), xattrText(name, there));
    }
  }

  async #content(path: string, node: TreeNode, found: DiskName): Promise<void> {
    while (this.#reading.size >= FILES_AT_ONCE) await Promise.race(this.#reading);
    if (this.#failure !== undefined) throw this.#failure.error;
    const order = this.#names;
    this.#bytes += found.size;
    const reading = this.#disk
      .digest(found)
      .then((digest) => {
        if (digest !== node.digest) this.#report(path, node, 'content', node.digest, digest, order);
      })
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => {
        this.#reading.delete(reading);
      });
    this.#reading.add(reading);
  }

  #report(
    path: string,
    node: TreeNode | undefined,
    kind: DifferenceKind,
    expected: string,
    found: string,
    order = this.#names,
  ): void {
    if (this.#options.ignore?.has(kind) === true) return;
    if (++this.#count <= this.#options.limit)
      this.#found.push({ path, layer: node?.layer, kind, expected, found, order });
  }
}

function typeOf(mode: number): string {
  return TYPES[mode & FileType.MASK] ?? `type 0${(mode & FileType.MASK).toString(8)}`;
}

/** What ext4 can hold: 1901 to 2446. */
function clamped({ seconds, nanoseconds }: TarTime): TarTime {
  return { seconds: Math.min(Math.max(seconds, -(2 ** 31)), 2 ** 34 - 2 ** 31 - 1), nanoseconds };
}

function timeText({ seconds, nanoseconds }: TarTime): string {
  return nanoseconds === 0 ? String(seconds) : `${seconds}.${String(nanoseconds).padStart(9, '0')}`;
}

/** A value as text if it is one, otherwise in hex, not longer than a line. */
function xattrText(name: string, value: Uint8Array | undefined): string {
  if (value === undefined) return `no ${name}`;
  const bytes = Buffer.from(value);
  const text = bytes.toString('latin1');
  const shown = /^[\x20-\x7e]*$/.test(text) ? text : `0x${bytes.toString('hex')}`;
  return `${name}=${shown}`;
}
