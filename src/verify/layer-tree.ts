/**
 * The file system that layers of an OCI image describe, as a tree in memory: names and attributes, and of content the
 * digest. It is the image specification's rules written down once more, apart from the converter, so that a mistake in
 * one of them shows. Memory: about half a kilobyte for each name.
 *
 * In each layer, whiteouts speak of lower layers only, wherever they stand; so every name remembers the layer that put
 * it there. A directory that a layer only passes through is put there as well, but not described.
 */
import { ConvertError } from '../blob/index.js';
import type { TarEntry, TarEntryType, TarTime } from '../tar/index.js';
import { ContentDigest } from './content-digest.js';

/** Types that a node can have. */
export type NodeType = Exclude<TarEntryType, 'link'>;

/** What a name leads to; several names of one file share it. */
export interface TreeNode {
  readonly type: NodeType;
  /** Number of the layer whose entry is described here, 0 at the bottom; of an implied directory, that which implied it. */
  layer: number;
  /** False if no entry says what attributes it has: they may be any. */
  described: boolean;
  mode: number;
  uid: number;
  gid: number;
  mtime: TarTime;
  xattrs: ReadonlyMap<string, Uint8Array>;
  readonly major: number;
  readonly minor: number;
  readonly target: string;
  readonly size: number;
  readonly digest: string;
  readonly children: Map<string, TreeName> | undefined;
  /** Of a directory: the last layer that put something below it. */
  through: number;
  readonly parent: TreeNode | undefined;
}

/** A name in a directory. */
export interface TreeName {
  readonly node: TreeNode;
  /** The layer that put it there. */
  readonly layer: number;
}

const WHITEOUT = '.wh.';
const AUFS = '.wh..wh.';
const OPAQUE = '.wh..wh..opq';
/** As many links as Linux follows in one path. */
const MAX_LINKS = 40;
const EPOCH: TarTime = { seconds: 0, nanoseconds: 0 };
const NO_XATTRS: ReadonlyMap<string, Uint8Array> = new Map();

function splitPath(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}

/** A member's path, `..` taken away with what it leaves. */
function memberPath(path: string): string[] {
  const parts: string[] = [];
  for (const part of splitPath(path))
    if (part === '..') parts.pop();
    else parts.push(part);
  return parts;
}

function directory(parent: TreeNode | undefined, layer: number): TreeNode {
  return {
    type: 'directory',
    layer,
    described: false,
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: EPOCH,
    xattrs: NO_XATTRS,
    major: 0,
    minor: 0,
    target: '',
    size: 0,
    digest: '',
    children: new Map(),
    through: layer,
    parent,
  };
}

/** Extended attributes that a file system keeps. */
function storable(xattrs: ReadonlyMap<string, Uint8Array>): ReadonlyMap<string, Uint8Array> {
  if (xattrs.size === 0) return NO_XATTRS;
  const kept = [...xattrs].filter(([name]) =>
    /^(?:(?:user|trusted|security)\..|system\.posix_acl_(?:access|default)$)/s.test(name),
  );
  // Parts of the stream are not kept alive.
  return new Map(kept.map(([name, value]) => [name, value.slice()]));
}

/** See the head of this file. */
export class LayerTree {
  readonly root = directory(undefined, 0);
  /** Entries taken. */
  entries = 0;
  /** Bytes of content taken, without holes. */
  bytes = 0;
  #layer = -1;

  /** Puts the next layer on top. @throws ConvertError OBD_CONVERT_BAD_TAR if it cannot be applied. */
  async apply(entries: AsyncIterable<TarEntry>): Promise<void> {
    this.#layer++;
    for await (const entry of entries) await this.#apply(entry);
  }

  async #apply(entry: TarEntry): Promise<void> {
    this.entries++;
    const path = memberPath(entry.path);
    const name = path.pop();
    if (name === undefined) {
      if (entry.type !== 'directory') throw bad(entry, 'the root is no directory');
      this.#describe(this.root, entry);
      return;
    }
    if (name !== OPAQUE && [...path, name].some((part) => part.startsWith(AUFS))) return;
    if (name.startsWith(WHITEOUT)) {
      const parent = this.#find(path, entry);
      if (parent === undefined) return;
      if (name === OPAQUE) this.#hideLower(parent);
      else this.#hide(parent, name.slice(WHITEOUT.length));
      return;
    }
    await this.#put(this.#make(path, entry), name, entry);
  }

  /** The directory at a path; undefined if something is missing or is none. */
  #find(path: readonly string[], entry: TarEntry): TreeNode | undefined {
    return this.#walk(path, entry, () => undefined);
  }

  /** The directory at a path; what is missing, and what of lower layers is in the way, becomes one. */
  #make(path: readonly string[], entry: TarEntry): TreeNode {
    const made = this.#walk(path, entry, (at, name) => {
      if (this.#isOwn(at.children?.get(name)))
        throw bad(entry, 'it lies below something that is no directory');
      const child = directory(at, this.#layer);
      this.#set(at, name, child);
      return child;
    });
    if (made === undefined) throw new TypeError('Unreachable: what is missing is made');
    return made;
  }

  #walk(
    path: readonly string[],
    entry: TarEntry,
    missing: (at: TreeNode, name: string) => TreeNode | undefined,
  ): TreeNode | undefined {
    const todo = path.toReversed();
    let at = this.root;
    let links = 0;
    for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
      if (part === '..') {
        at = at.parent ?? at;
        continue;
      }
      const found = at.children?.get(part);
      if (found?.node.type === 'directory') {
        at = found.node;
        continue;
      }
      if (found?.node.type === 'symlink') {
        if (++links > MAX_LINKS) throw bad(entry, 'too many symbolic links in its directories');
        const { target } = found.node;
        if (target.startsWith('/')) at = this.root;
        todo.push(...splitPath(target).reverse());
        continue;
      }
      const next = missing(at, part);
      if (next === undefined) return undefined;
      at = next;
    }
    return at;
  }

  #set(parent: TreeNode, name: string, node: TreeNode): void {
    parent.children?.set(name, { node, layer: this.#layer });
  }

  #hide(parent: TreeNode, name: string): void {
    const found = parent.children?.get(name);
    if (found === undefined) return;
    if (!this.#isOwn(found)) parent.children?.delete(name);
    else if (found.node.type === 'directory') this.#hideLower(found.node, true);
  }

  /** Takes away what lower layers have in a directory. */
  #hideLower(root: TreeNode, itself = false): void {
    const todo: [TreeNode, boolean][] = [[root, itself]];
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      const [at, replaced] = next;
      // What described it is hidden, unless this layer does.
      if (replaced && at.layer !== this.#layer) at.described = false;
      for (const [name, child] of at.children ?? []) {
        if (!this.#isOwn(child)) at.children?.delete(name);
        else if (child.node.type === 'directory') todo.push([child.node, true]);
      }
    }
  }

  async #put(parent: TreeNode, name: string, entry: TarEntry): Promise<void> {
    for (let at: TreeNode | undefined = parent; at !== undefined; at = at.parent) at.through = this.#layer;
    const found = parent.children?.get(name);
    if (entry.type === 'directory') {
      const node = found?.node.type === 'directory' ? found.node : directory(parent, this.#layer);
      this.#describe(node, entry);
      this.#set(parent, name, node);
    } else if (entry.type === 'link') {
      const node = this.#linked(entry);
      this.#set(parent, name, node);
      if (this.#linked(entry) !== node) throw bad(entry, 'its target goes with what it replaces');
      this.#describe(node, entry);
    } else {
      this.#set(parent, name, await this.#leaf(entry, entry.type, parent));
    }
  }

  /** True for what this layer put there, and directories that it put something into. */
  #isOwn(name: TreeName | undefined): boolean {
    return name !== undefined && (name.layer === this.#layer || name.node.through === this.#layer);
  }

  #linked(entry: TarEntry): TreeNode {
    const path = memberPath(entry.linkTarget);
    const name = path.pop() ?? '';
    const node = this.#find(path, entry)?.children?.get(name)?.node;
    if (node === undefined || node.type === 'directory') throw bad(entry, 'its hard link leads nowhere');
    return node;
  }

  async #leaf(entry: TarEntry, type: Exclude<NodeType, 'directory'>, parent: TreeNode): Promise<TreeNode> {
    let digest = '';
    if (type === 'file') {
      const content = new ContentDigest(entry.size);
      for await (const { offset, data } of entry.pieces()) {
        content.add(offset, data);
        this.bytes += data.byteLength;
      }
      digest = content.end();
    }
    return {
      type,
      layer: this.#layer,
      described: true,
      mode: type === 'symlink' ? 0o777 : entry.mode,
      uid: entry.uid,
      gid: entry.gid,
      mtime: entry.mtime,
      xattrs: storable(entry.xattrs),
      major: entry.major,
      minor: entry.minor,
      target: type === 'symlink' ? entry.linkTarget : '',
      size: type === 'file' ? entry.size : 0,
      digest,
      children: undefined,
      through: -1,
      parent,
    };
  }

  #describe(node: TreeNode, entry: TarEntry): void {
    node.layer = this.#layer;
    node.described = true;
    if (node.type !== 'symlink') node.mode = entry.mode;
    node.uid = entry.uid;
    node.gid = entry.gid;
    node.mtime = entry.mtime;
    // A hard link's header need not say again what the file's did.
    if (entry.xattrs.size > 0 || node.type === 'directory') node.xattrs = storable(entry.xattrs);
  }
}

function bad(entry: TarEntry, problem: string): ConvertError {
  const name = Buffer.from(entry.path, 'latin1').toString('utf8');
  return new ConvertError(
    'OBD_CONVERT_BAD_TAR',
    `Cannot apply layer "${entry.place.archive}": ${JSON.stringify(name)}: ${problem}, member at byte ${entry.place.offset}`,
    { source: entry.place.archive, offset: entry.place.offset },
  );
}
