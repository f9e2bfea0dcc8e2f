import { ConvertError, IoError } from '../blob/index.js';
import { addon } from './addon.js';
import type {
  ChangedRun,
  DirectoryEntry,
  FileTime,
  InodeAttributes,
  InodeStat,
  NativeExt4Image,
  PackedRun,
} from './ext4-types.js';
import type { NativeZFileStream, ZFileStream } from './zfile-stream.js';

/** What one side of a source pair asks and the other answers, as ext4_source.h says. */
export interface Ext4SourcePair {
  /** For {@link Ext4Image.open}. */
  readonly image: number;
  /** For whoever reads what lies below. */
  readonly server: number;
}

/** Makes both ends, which the caller owns. @throws a system error */
export function ext4SourcePair(): Ext4SourcePair {
  const [image = -1, server = -1] = addon.Ext4Image.sourcePair();
  return { image, server };
}

/** Writes of at least this many bytes leave the JavaScript thread. */
const ASYNC_WRITE = 64 * 1024;
const scratch = new Float64Array(15);

function attributesOf(a: InodeAttributes): Float64Array {
  scratch[0] = a.mode;
  scratch[1] = a.uid;
  scratch[2] = a.gid;
  scratch[3] = a.major;
  scratch[4] = a.minor;
  [a.atime, a.mtime, a.ctime].forEach((time, i) => {
    scratch[5 + 2 * i] = time.seconds;
    scratch[6 + 2 * i] = time.nanoseconds;
  });
  return scratch;
}

/** A failure is told by the next write. */
async function waitForRoom(stream: NativeZFileStream): Promise<void> {
  await stream.room().catch(() => undefined);
}

/** The native error as one of ours. EREMOTEIO is how the work file's own failure is told from the image's. */
function converted(error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error));
  if (!('errno' in error) || !('code' in error)) return error;
  if (error.code === 'EREMOTEIO')
    return new IoError(
      error.message.includes('No space left') ? 'OBD_IO_NO_SPACE' : 'OBD_IO_FAILED',
      error.message,
      {
        cause: error,
        hint: 'Work files need room for the unpacked image; another directory may have it (--workdir)',
      },
    );
  if (error.code === 'ENOSPC')
    return new ConvertError('OBD_CONVERT_NO_SPACE', error.message, {
      cause: error,
      hint: 'Give the image a larger virtual size (--vsize)',
    });
  return new ConvertError('OBD_CONVERT_FILESYSTEM', error.message, { cause: error });
}

/**
 * An ext4 file system made in user space, layer by layer, in a sparse temporary file without a name. The same calls
 * give the same bytes. Wraps ext4_image.h.
 *
 * Names, paths and link targets are *byte strings*: one character of code 0 to 255 per byte (`latin1`), because names in
 * a tar are bytes and need not be UTF-8. One call at a time: wait for a promise before the next call. All methods
 * throw (or reject with) ConvertError OBD_CONVERT_NO_SPACE when the image is full, IoError when the work file fails,
 * otherwise OBD_CONVERT_FILESYSTEM.
 */
export class Ext4Image {
  /** Inode of the root directory. */
  static readonly ROOT = 2;
  /** Size of the image in bytes. */
  readonly size: number;
  readonly #native: NativeExt4Image;
  #stream: NativeZFileStream | undefined;

  private constructor(native: NativeExt4Image, size: number) {
    this.#native = native;
    this.size = size;
  }

  /**
   * Formats an image. It takes no disk space beyond its content.
   * @param dir where the temporary files are; they have no name and vanish with the process.
   * @param size in bytes; a multiple of 4096, at least 1 MiB.
   */
  static async format(dir: string, size: number): Promise<Ext4Image> {
    const native = new addon.Ext4Image();
    try {
      await native.format(dir, size);
    } catch (error) {
      native.close();
      throw converted(error);
    }
    return new Ext4Image(native, size);
  }

  /**
   * Opens the image that lies behind a socket, made by {@link ext4SourcePair}: blocks are fetched from there as they are
   * needed, whatever changes stays here. What the file system has to begin with is the layer below.
   * @param dir where the temporary files are.
   * @param size of the disk; what is behind its last whole 4 KiB is not used.
   * @param sourceFd owned by the image from now on, also on failure. Its other side must be answering already.
   * @param runs pairs of offset and length: where the disk may hold other bytes than zeroes.
   * @throws ConvertError OBD_CONVERT_FILESYSTEM also if it is no ext4, is not clean, or has features that would not be
   * kept up (metadata checksums).
   */
  static async open(dir: string, size: number, sourceFd: number, runs: Float64Array): Promise<Ext4Image> {
    const native = new addon.Ext4Image();
    try {
      await native.open(dir, size, sourceFd, runs);
    } catch (error) {
      native.close();
      throw converted(error);
    }
    return new Ext4Image(native, size - (size % 4096));
  }

  /** Gives back memory and disk. Not while a promise of this image is pending. */
  close(): void {
    this.#native.close();
  }

  /** Descriptor of the image's file, for reading; complete after {@link flush}. Owned by this object. */
  get fd(): number {
    return this.#call((native) => native.fd());
  }

  #call<T>(run: (native: NativeExt4Image) => T): T {
    try {
      return run(this.#native);
    } catch (error) {
      throw converted(error);
    }
  }

  async #wait<T>(run: (native: NativeExt4Image) => Promise<T>): Promise<T> {
    try {
      return await run(this.#native);
    } catch (error) {
      throw converted(error);
    }
  }

  /** Writes all metadata that is still in memory: the image is then clean and its file complete. */
  flush(): Promise<void> {
    return this.#wait((native) => native.flush());
  }

  /** What the current layer changed, after {@link flush}: ascending, disjoint runs of whole 4 KiB blocks. */
  async changes(): Promise<ChangedRun[]> {
    const flat = await this.#wait((native) => native.changes());
    const runs: ChangedRun[] = [];
    for (let i = 0; i + 2 < flat.length; i += 3)
      runs.push({ offset: flat[i] ?? 0, length: flat[i + 1] ?? 0, zero: flat[i + 2] === 1 });
    return runs;
  }

  /**
   * Packs the current layer while it is applied: file content goes to `stream` and not to the image's own file, which
   * from then on lacks it. Before the layer's first file. Nobody else uses the stream until {@link endLayer} or
   * {@link abandonLayer}.
   */
  beginLayer(stream: ZFileStream): void {
    this.#call((native) => {
      native.layerBegin(stream.native);
    });
    this.#stream = stream.native;
  }

  /** Flushes, appends what changed of the metadata, and tells what the layer holds: ascending, disjoint, whole blocks. */
  async endLayer(): Promise<PackedRun[]> {
    this.#stream = undefined;
    const flat = await this.#wait((native) => native.layerEnd());
    const runs: PackedRun[] = [];
    for (let i = 0; i + 2 < flat.length; i += 3) {
      const position = flat[i + 2] ?? -1;
      runs.push({
        offset: flat[i] ?? 0,
        length: flat[i + 1] ?? 0,
        position: position < 0 ? undefined : position,
      });
    }
    return runs;
  }

  /** Lets go of the stream after a failure. The image can only be closed then. */
  abandonLayer(): void {
    this.#stream = undefined;
    this.#native.layerAbandon();
  }

  /** Begins the next layer on top of what is there. */
  nextLayer(): void {
    this.#call((native) => {
      native.nextLayer();
    });
  }

  /** Inode and type behind a name, or undefined. */
  lookup(directory: number, name: string): { inode: number; type: number } | undefined {
    const found = this.#call((native) => native.lookup(directory, name));
    if (found === 0) return undefined;
    return { inode: found % 2 ** 32, type: Math.floor(found / 2 ** 32) << 12 };
  }

  /** What an inode is. */
  stat(inode: number): InodeStat {
    this.#call((native) => {
      native.stat(inode, scratch);
    });
    const at = (i: number): number => scratch[i] ?? 0;
    const time = (i: number): FileTime => ({ seconds: at(i), nanoseconds: at(i + 1) });
    return {
      mode: at(0),
      uid: at(1),
      gid: at(2),
      major: at(3),
      minor: at(4),
      atime: time(5),
      mtime: time(7),
      ctime: time(9),
      links: at(11),
      size: at(12),
      blocks: at(13),
      inode: at(14),
    };
  }

  /** The names in a directory, in the order of the disk, without `.` and `..`. */
  readdir(directory: number): DirectoryEntry[] {
    const flat = this.#call((native) => native.readdir(directory));
    const entries: DirectoryEntry[] = [];
    for (let i = 0; i + 2 < flat.length; i += 3)
      entries.push({ name: String(flat[i]), inode: Number(flat[i + 1]), type: Number(flat[i + 2]) });
    return entries;
  }

  /** Target of a symbolic link. */
  readlink(inode: number): string {
    return this.#call((native) => native.readlink(inode));
  }

  /** Reads file content; returns the bytes read, fewer only at the end of the file. Not for the file being written. */
  read(inode: number, offset: number, into: Uint8Array): Promise<number> {
    return this.#wait((native) => native.read(inode, offset, into));
  }

  /**
   * Where a file's content lies, as flat triples of offset in the file, place in the image and length: ascending, whole
   * blocks, holes left out. The last may go beyond the end of the file.
   */
  extents(inode: number): Float64Array {
    return this.#call((native) => native.extents(inode));
  }

  /** The directory above; the root's is the root. */
  parent(directory: number): number {
    return this.#call((native) => native.parent(directory));
  }

  /** Makes an empty file, a directory, fifo, socket or device, by the type in `mode`; returns its inode. */
  make(directory: number, name: string, attributes: InodeAttributes): number {
    return this.#call((native) => native.make(directory, name, attributesOf(attributes)));
  }

  /** Makes a symbolic link of 1 to 4095 bytes; returns its inode. */
  symlink(directory: number, name: string, target: string, attributes: InodeAttributes): number {
    return this.#call((native) => native.symlink(directory, name, target, attributesOf(attributes)));
  }

  /** Gives an inode another name. */
  link(directory: number, name: string, inode: number): void {
    this.#call((native) => {
      native.link(directory, name, inode);
    });
  }

  /** Removes a name that is no directory and, with the last name, the inode. */
  remove(directory: number, name: string): void {
    this.#call((native) => {
      native.remove(directory, name);
    });
  }

  /** Removes a name, a directory with everything in it. */
  removeTree(directory: number, name: string): Promise<void> {
    return this.#wait((native) => native.removeAsync(directory, name));
  }

  /** Replaces owner, times and permission bits. */
  setAttributes(inode: number, attributes: InodeAttributes): void {
    this.#call((native) => {
      native.setAttributes(inode, attributesOf(attributes));
    });
  }

  /** Begins the content of an empty file: then {@link writeFile} in ascending order, then {@link endFile}. */
  beginFile(inode: number): void {
    this.#call((native) => {
      native.fileBegin(inode);
    });
  }

  /**
   * Writes content; what is skipped is a hole. Large pieces are written off-thread, hence the promise; those of a layer
   * that is packed are copied at once, and a promise then means that there is no room for more yet.
   * @param data at most 1 MiB.
   * @param more how many bytes will follow directly (a hint for laying them out together; it must not be too large)
   */
  writeFile(offset: number, data: Uint8Array, more: number): Promise<void> | undefined {
    const stream = this.#stream;
    if (stream === undefined && data.byteLength >= ASYNC_WRITE)
      return this.#wait((native) => native.fileWriteAsync(offset, data, more));
    const full = this.#call((native) => native.fileWrite(offset, data, more));
    return full && stream !== undefined ? waitForRoom(stream) : undefined;
  }

  /** Ends the content. @param size length of the file; at least what was written */
  endFile(size: number): void {
    this.#call((native) => {
      native.fileEnd(size);
    });
  }

  /** Replaces all extended attributes. Names carry their namespace (`user.x`). */
  setXattrs(inode: number, xattrs: ReadonlyMap<string, Uint8Array>): void {
    this.#call((native) => {
      native.setXattrs(inode, [...xattrs].flat());
    });
  }

  /** All extended attributes by full name. */
  xattrs(inode: number): Map<string, Uint8Array> {
    const flat = this.#call((native) => native.xattrs(inode));
    const result = new Map<string, Uint8Array>();
    for (let i = 0; i + 1 < flat.length; i += 2) {
      const value = flat[i + 1];
      if (value instanceof Uint8Array) result.set(String(flat[i]), value);
    }
    return result;
  }
}
