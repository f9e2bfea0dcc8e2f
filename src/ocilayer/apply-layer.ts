/**
 * Applies one OCI layer to an ext4 image, by the letter of the image specification's layer rules:
 *
 * - A path names what its directories' symbolic links lead to, inside the image's root; `..` stops at the root.
 * - Whiteouts speak of lower layers only, wherever they stand in the archive; an opaque one hides all of a directory
 *   but what this layer puts there.
 * - A later entry replaces what an earlier one or a lower layer made; a directory over a directory keeps its content
 *   and has its attributes replaced.
 *
 * Directories that a path needs but no entry describes are made with mode 0755, owner 0:0 and time 0. Nothing is taken
 * from the clock or the host.
 */
import { abortedError, ConvertError } from '../blob/index.js';
import { Ext4Image, FileType, type FileTime, type InodeAttributes } from '../native/index.js';
import { badTar, type TarEntry } from '../tar/index.js';

/** What an application of a layer came to. */
export interface LayerCounts {
  entries: number;
  whiteouts: number;
  /** Bytes of file content. */
  bytes: number;
  /** Extended attributes left out, because ext4 has no place for their namespace. */
  droppedXattrs: number;
}

/** Options of {@link applyLayer}. */
export interface ApplyOptions {
  /** Told of what is left out, once per kind. */
  readonly warn?: (message: string) => void;
  readonly signal?: AbortSignal;
}

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** Other marks of the same prefix are AUFS's own and mean nothing in an image. */
const AUFS = '.wh..wh.';
const LOST_AND_FOUND = 'lost+found';
const MAX_SYMLINKS = 40;
const EPOCH: FileTime = { seconds: 0, nanoseconds: 0 };
const IMPLIED: InodeAttributes = {
  mode: FileType.DIRECTORY | 0o755,
  uid: 0,
  gid: 0,
  major: 0,
  minor: 0,
  atime: EPOCH,
  mtime: EPOCH,
  ctime: EPOCH,
};
const TYPE_BITS = {
  file: FileType.FILE,
  directory: FileType.DIRECTORY,
  symlink: FileType.SYMLINK,
  char: FileType.CHAR,
  block: FileType.BLOCK,
  fifo: FileType.FIFO,
  link: 0,
} as const;
const ACLS = new Set(['system.posix_acl_access', 'system.posix_acl_default']);

/** Applies the members of a layer to the image, which the caller then flushes. */
export async function applyLayer(
  image: Ext4Image,
  entries: AsyncIterable<TarEntry>,
  options: ApplyOptions = {},
): Promise<LayerCounts> {
  const layer = new LayerApplier(image, options);
  for await (const entry of entries) {
    if (options.signal?.aborted === true) throw abortedError('apply a layer', options.signal);
    await layer.apply(entry);
  }
  return layer.counts;
}

/** A name in a directory. */
interface Place {
  readonly directory: number;
  readonly name: string;
}

class LayerApplier {
  readonly counts: LayerCounts = { entries: 0, whiteouts: 0, bytes: 0, droppedXattrs: 0 };
  readonly #image: Ext4Image;
  readonly #options: ApplyOptions;
  /**
   * Names that this layer put somewhere, by directory: true if an entry described it, false for implied directories.
   * Inode numbers are not used twice within a layer, so entries of removed directories do no harm.
   */
  readonly #own = new Map<number, Map<string, boolean>>();
  readonly #warned = new Set<string>();

  constructor(image: Ext4Image, options: ApplyOptions) {
    this.#image = image;
    this.#options = options;
  }

  async apply(entry: TarEntry): Promise<void> {
    const path = cleanPath(entry.path);
    const name = path.at(-1);
    this.counts.entries++;
    try {
      if (name === undefined) this.#root(entry);
      else if (path.some((part) => part.startsWith(AUFS)) && name !== OPAQUE) return;
      else if (name.startsWith(WHITEOUT)) await this.#whiteout(path, name, entry);
      else await this.#put(path, name, entry);
    } catch (error) {
      if (error instanceof ConvertError && error.code === 'OBD_CONVERT_FILESYSTEM')
        throw badTar(entry.place, `"${printable(entry.path)}" cannot be stored: ${error.message}`, error);
      throw error;
    }
  }

  #root(entry: TarEntry): void {
    if (entry.type !== 'directory') throw badTar(entry.place, `the root is a ${entry.type}, not a directory`);
    this.#describe(Ext4Image.ROOT, entry);
  }

  #isOwn(place: Place): boolean {
    return this.#own.get(place.directory)?.has(place.name) ?? false;
  }

  #claim(place: Place, described: boolean): void {
    let names = this.#own.get(place.directory);
    if (names === undefined) this.#own.set(place.directory, (names = new Map<string, boolean>()));
    names.set(place.name, described || (names.get(place.name) ?? false));
  }

  // --- paths ---

  /**
   * The directory at a path, symbolic links followed inside the root.
   * @param make what is missing is made; otherwise undefined if something is missing or is no directory.
   */
  async #directory(path: readonly string[], entry: TarEntry, make: boolean): Promise<number | undefined> {
    const image = this.#image;
    const todo = path.toReversed();
    let at: number = Ext4Image.ROOT;
    let links = 0;
    for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
      if (part === '..') {
        at = image.parent(at);
        continue;
      }
      const place = { directory: at, name: part };
      const found = image.lookup(at, part);
      if (found?.type === FileType.DIRECTORY) {
        at = found.inode;
        if (make) this.#claim(place, false);
      } else if (found?.type === FileType.SYMLINK) {
        if (++links > MAX_SYMLINKS)
          throw badTar(
            entry.place,
            `too many symbolic links in the directories of "${printable(entry.path)}"`,
          );
        const target = image.readlink(found.inode);
        if (target.startsWith('/')) at = Ext4Image.ROOT;
        todo.push(...splitPath(target).reverse());
      } else if (!make) {
        return undefined;
      } else {
        if (found !== undefined) {
          if (this.#isOwn(place))
            throw badTar(entry.place, `"${printable(entry.path)}" lies below something that is no directory`);
          image.remove(at, part);
        }
        at = image.make(at, part, IMPLIED);
        this.#claim(place, false);
      }
    }
    return at;
  }

  // --- whiteouts ---

  async #whiteout(path: readonly string[], name: string, entry: TarEntry): Promise<void> {
    this.counts.whiteouts++;
    const hidden = name.slice(WHITEOUT.length);
    if (name !== OPAQUE && (hidden === '' || hidden === '.' || hidden === '..'))
      throw badTar(entry.place, `whiteout "${printable(entry.path)}" names nothing`);
    const directory = await this.#directory(path.slice(0, -1), entry, false);
    if (directory === undefined) return;
    if (name === OPAQUE) await this.#hideLower(directory);
    else await this.#hide({ directory, name: hidden });
  }

  /** Removes what a lower layer has at a name; what this layer has there stays. */
  async #hide(place: Place): Promise<void> {
    const found = this.#image.lookup(place.directory, place.name);
    if (found === undefined) return;
    const isDirectory = found.type === FileType.DIRECTORY;
    const keep = place.directory === Ext4Image.ROOT && place.name === LOST_AND_FOUND;
    if (this.#isOwn(place) || keep) {
      if (!isDirectory) return;
      // A directory that this layer only passed through loses the attributes of the one that is hidden.
      if (this.#own.get(place.directory)?.get(place.name) === false) {
        this.#image.setAttributes(found.inode, IMPLIED);
        this.#image.setXattrs(found.inode, new Map());
      }
      await this.#hideLower(found.inode);
    } else {
      await this.#remove(place, found.type);
    }
  }

  async #hideLower(root: number): Promise<void> {
    // Iterative over directories: layers can be deeper than the stack.
    for (const todo = [root]; ;) {
      const directory = todo.pop();
      if (directory === undefined) return;
      for (const { name, inode, type } of this.#image.readdir(directory)) {
        const place = { directory, name };
        if (type === FileType.DIRECTORY && this.#isOwn(place)) {
          if (this.#own.get(directory)?.get(name) === false) {
            this.#image.setAttributes(inode, IMPLIED);
            this.#image.setXattrs(inode, new Map());
          }
          todo.push(inode);
        } else {
          await this.#hideLeaf(place, type);
        }
      }
    }
  }

  /** Removes a name unless it is this layer's own. */
  async #hideLeaf(place: Place, type: number): Promise<void> {
    if (this.#isOwn(place) || (place.directory === Ext4Image.ROOT && place.name === LOST_AND_FOUND)) return;
    await this.#remove(place, type);
  }

  /** Trees may be large: they are removed off-thread. */
  async #remove(place: Place, type: number): Promise<void> {
    if (type === FileType.DIRECTORY) await this.#image.removeTree(place.directory, place.name);
    else this.#image.remove(place.directory, place.name);
  }

  // --- entries ---

  async #put(path: readonly string[], name: string, entry: TarEntry): Promise<void> {
    const directory = await this.#directory(path.slice(0, -1), entry, true);
    if (directory === undefined) throw new TypeError('Unreachable: missing directories are made');
    const place = { directory, name };
    const image = this.#image;
    const found = image.lookup(directory, name);
    if (entry.type === 'directory') {
      let inode = found?.inode;
      if (inode === undefined || found?.type !== FileType.DIRECTORY) {
        if (found !== undefined) image.remove(directory, name);
        inode = image.make(directory, name, IMPLIED);
      }
      this.#describe(inode, entry);
    } else if (entry.type === 'link') {
      await this.#link(place, entry);
    } else {
      if (found !== undefined) await this.#remove(place, found.type);
      const attributes = attributesOf(entry);
      const inode =
        entry.type === 'symlink'
          ? image.symlink(directory, name, entry.linkTarget, attributes)
          : image.make(directory, name, attributes);
      if (entry.type === 'file' && entry.size > 0) await this.#content(inode, entry);
      if (entry.xattrs.size > 0) this.#xattrs(inode, entry);
    }
    this.#claim(place, true);
  }

  /** Large pieces are written by another thread while the next one is unpacked. */
  async #content(inode: number, entry: TarEntry): Promise<void> {
    const image = this.#image;
    let writing: Promise<void> | undefined;
    image.beginFile(inode);
    try {
      for await (const { offset, data, more } of entry.pieces()) {
        await writing;
        const { signal } = this.#options;
        if (signal?.aborted === true) throw abortedError('apply a layer', signal);
        writing = image.writeFile(offset, data, more);
        // Reported by the await above or below; until then it is not unhandled.
        writing?.catch(() => undefined);
        this.counts.bytes += data.byteLength;
      }
    } finally {
      await writing;
    }
    image.endFile(entry.size);
  }

  /** What a hard link leads to: its directories' symbolic links are followed, it itself is not. */
  async #target(entry: TarEntry): Promise<number> {
    const path = cleanPath(entry.linkTarget);
    const directory = await this.#directory(path.slice(0, -1), entry, false);
    const found = directory === undefined ? undefined : this.#image.lookup(directory, path.at(-1) ?? '');
    if (found === undefined || found.type === FileType.DIRECTORY)
      throw badTar(
        entry.place,
        `hard link "${printable(entry.path)}" leads to "${printable(entry.linkTarget)}", ` +
          (found === undefined ? 'which does not exist in any layer' : 'a directory'),
      );
    return found.inode;
  }

  async #link(place: Place, entry: TarEntry): Promise<void> {
    const image = this.#image;
    let inode = await this.#target(entry);
    const found = image.lookup(place.directory, place.name);
    if (found?.inode !== inode) {
      if (found !== undefined) {
        await this.#remove(place, found.type);
        // The target may have gone with the directory that was in the way.
        inode = await this.#target(entry);
      }
      image.link(place.directory, place.name, inode);
    }
    this.#describe(inode, entry);
  }

  /** Gives an inode that exists the attributes of an entry. */
  #describe(inode: number, entry: TarEntry): void {
    const isSymlink =
      entry.type === 'link' && (this.#image.stat(inode).mode & FileType.MASK) === FileType.SYMLINK;
    this.#image.setAttributes(inode, attributesOf(entry, isSymlink));
    // A hard link's header need not repeat the attributes of the file; a directory's header is all there is.
    if (entry.xattrs.size > 0 || entry.type === 'directory') this.#xattrs(inode, entry);
  }

  #xattrs(inode: number, entry: TarEntry): void {
    const kept = new Map<string, Uint8Array>();
    for (const [name, value] of entry.xattrs) {
      if (/^(user|trusted|security)\../.test(name) || ACLS.has(name)) {
        kept.set(name, value);
        continue;
      }
      this.counts.droppedXattrs++;
      const space = name.split('.', 1)[0] ?? '';
      if (this.#warned.has(space)) continue;
      this.#warned.add(space);
      this.#options.warn?.(
        `Extended attribute "${printable(name)}" of "${printable(entry.path)}" is left out: ext4 has no namespace "${printable(space)}"`,
      );
    }
    this.#image.setXattrs(inode, kept);
  }
}

function attributesOf(entry: TarEntry, isSymlink = entry.type === 'symlink'): InodeAttributes {
  return {
    mode: TYPE_BITS[entry.type] | (isSymlink ? 0o777 : entry.mode),
    uid: entry.uid,
    gid: entry.gid,
    major: entry.major,
    minor: entry.minor,
    atime: entry.atime ?? entry.mtime,
    mtime: entry.mtime,
    ctime: entry.ctime ?? entry.mtime,
  };
}

/** Parts of a path without empty ones and `.`; `..` is kept. */
function splitPath(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}

/** Parts of a member's name, `..` taken away together with what it leaves; it never leaves the root. */
function cleanPath(path: string): string[] {
  const parts: string[] = [];
  for (const part of splitPath(path)) {
    if (part === '..') parts.pop();
    else parts.push(part);
  }
  return parts;
}

/** A byte string for a message: UTF-8 where it is, control characters escaped, not longer than a line. */
function printable(bytes: string): string {
  const text = Buffer.from(bytes, 'latin1').toString('utf8');
  const short = text.length > 200 ? `${text.slice(0, 200)}...` : text;
  return short.replace(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
