/** What goes in and out of an ext4 image, and the compiled class behind it. */
import type { NativeZFileStream } from './zfile-stream.js';

/** The class of bind_ext4.cc, as it is. */
export interface NativeExt4Image {
  format(dir: string, size: number): Promise<void>;
  open(dir: string, size: number, sourceFd: number, runs: Float64Array): Promise<void>;
  close(): void;
  fd(): number;
  flush(): Promise<void>;
  changes(): Promise<Float64Array>;
  nextLayer(): void;
  layerBegin(stream: NativeZFileStream): void;
  layerEnd(): Promise<Float64Array>;
  layerAbandon(): void;
  lookup(directory: number, name: string): number;
  stat(inode: number, into: Float64Array): void;
  readdir(directory: number): (string | number)[];
  readlink(inode: number): string;
  read(inode: number, offset: number, into: Uint8Array): Promise<number>;
  extents(inode: number): Float64Array;
  parent(directory: number): number;
  make(directory: number, name: string, attributes: Float64Array): number;
  symlink(directory: number, name: string, target: string, attributes: Float64Array): number;
  link(directory: number, name: string, inode: number): void;
  remove(directory: number, name: string): void;
  removeAsync(directory: number, name: string): Promise<void>;
  setAttributes(inode: number, attributes: Float64Array): void;
  fileBegin(inode: number): void;
  fileWrite(offset: number, data: Uint8Array, more: number): boolean;
  fileWriteAsync(offset: number, data: Uint8Array, more: number): Promise<void>;
  fileEnd(size: number): void;
  setXattrs(inode: number, list: readonly (string | Uint8Array)[]): void;
  xattrs(inode: number): (string | Uint8Array)[];
}

/** A moment: whole seconds since 1970, rounded down, and nanoseconds from there. */
export interface FileTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** Bits of a mode that say what an inode is. */
export const FileType = {
  MASK: 0o170000,
  FIFO: 0o010000,
  CHAR: 0o020000,
  DIRECTORY: 0o040000,
  BLOCK: 0o060000,
  FILE: 0o100000,
  SYMLINK: 0o120000,
  SOCKET: 0o140000,
} as const;

/** What an inode carries besides content, names and extended attributes. */
export interface InodeAttributes {
  /** The 12 permission bits and, where an inode is made, its {@link FileType}. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Device numbers; 0 for all else. */
  readonly major: number;
  readonly minor: number;
  readonly atime: FileTime;
  readonly mtime: FileTime;
  readonly ctime: FileTime;
}

/** All that stat(2) would tell. */
export interface InodeStat extends InodeAttributes {
  readonly inode: number;
  readonly links: number;
  readonly size: number;
  /** Allocated, in units of 512 bytes. */
  readonly blocks: number;
}

/** One name in a directory. */
export interface DirectoryEntry {
  readonly name: string;
  readonly inode: number;
  /** A {@link FileType}. */
  readonly type: number;
}

/** A run of bytes in which the current layer differs from what was before. */
export interface ChangedRun {
  readonly offset: number;
  readonly length: number;
  /** True if the run is zeros now. */
  readonly zero: boolean;
}

/** A run of bytes of a layer that is packed while it is applied. */
export interface PackedRun {
  readonly offset: number;
  readonly length: number;
  /** Where the run begins in the stream, in plain bytes; undefined if it is zeros now. */
  readonly position: number | undefined;
}
