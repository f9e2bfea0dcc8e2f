/**
 * Where things lie below the snapshotter's root; the names are those of the reference (tools know them).
 *
 *   metadata.mdb            the store
 *   lock                    held by the one snapshotter of this root
 *   snapshots/
 *     new-XXXXXX/           being made; renamed to its number
 *     NUMBER/
 *       fs/                 upper directory, or what is unpacked; the blob of a local layer
 *       work/               overlayfs' work directory, of an active snapshot
 *       block/              of a snapshot that is, or may get, a device
 *         mountpoint/       its file system
 *         config.v1.json    its image configuration
 *         init-debug.log    the result of opening it
 *         backstore_mark    its device path
 *       image_ref           reference of the image it belongs to
 */
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { ioError, makeDirectory } from '../blob/index.js';

/** Paths below one root. */
export class Layout {
  readonly root: string;
  readonly snapshots: string;

  constructor(root: string) {
    this.root = root;
    this.snapshots = join(root, 'snapshots');
  }

  dir(id: number): string {
    return join(this.snapshots, String(id));
  }

  fs(id: number): string {
    return join(this.dir(id), 'fs');
  }

  work(id: number): string {
    return join(this.dir(id), 'work');
  }

  block(id: number): string {
    return join(this.dir(id), 'block');
  }

  mountpoint(id: number): string {
    return join(this.block(id), 'mountpoint');
  }

  config(id: number): string {
    return join(this.block(id), 'config.v1.json');
  }

  result(id: number): string {
    return join(this.block(id), 'init-debug.log');
  }

  /** Holds the path of the snapshot's device. */
  mark(id: number): string {
    return join(this.block(id), 'backstore_mark');
  }

  imageRef(id: number): string {
    return join(this.dir(id), 'image_ref');
  }
}

/** Beginning of the names of directories that are being made. */
export const NEW_PREFIX = 'new-';

/** Makes a root if there is none. Its path is the real one, as the mount table has it. @throws IoError */
export async function openLayout(root: string): Promise<Layout> {
  try {
    await makeDirectory(root, 0o700);
    return new Layout(await realpath(root));
  } catch (error) {
    throw ioError(error, `open the root "${root}"`, root);
  }
}
