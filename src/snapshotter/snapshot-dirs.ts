/**
 * Directories of snapshots: made before the store knows them, removed after it has forgotten them. So a crash leaves at
 * most directories that nobody knows, and {@link SnapshotDirs.leftovers} finds those.
 */
import { existsSync } from 'node:fs';
import { chmod, chown, mkdir, open, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ioError, makeDirectory } from '../blob/index.js';
import { NEW_PREFIX, type Layout } from './layout.js';

/** What a new directory is for. */
export interface NewDir {
  readonly id: number;
  /** It needs a work directory for overlayfs. */
  readonly active: boolean;
  /** Whose `fs` it takes owner and group from. */
  readonly parentId: number | undefined;
  readonly imageRef: string | undefined;
}

/** See the head of this file. */
export class SnapshotDirs {
  readonly #layout: Layout;
  /** Being made: not known to the store, and no leftovers. */
  readonly #creating = new Set<number>();

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  /** Makes the root's directories. @returns the greatest number that is in use on disk. @throws IoError */
  async open(): Promise<number> {
    const { root, snapshots } = this.#layout;
    try {
      await makeDirectory(snapshots, 0o700);
      await chmod(root, 0o700);
      await chmod(snapshots, 0o700);
      return Math.max(0, ...(await readdir(snapshots)).map(idOf).filter((id) => id !== undefined));
    } catch (error) {
      throw ioError(error, `open the root "${root}"`, root);
    }
  }

  /**
   * Runs `body` while a new snapshot's directory exists that the store does not know yet. When `body` fails, or the
   * directory cannot be made, the directory goes again.
   * @throws IoError; what `body` throws.
   */
  async creating<T>(dir: NewDir, body: () => Promise<T> | T): Promise<T> {
    this.#creating.add(dir.id);
    try {
      await this.#make(dir);
      return await body();
    } catch (error) {
      await this.remove(this.#layout.dir(dir.id)).catch(() => undefined); // leftovers() finds it
      throw error;
    } finally {
      this.#creating.delete(dir.id);
    }
  }

  async #make({ id, active, parentId, imageRef }: NewDir): Promise<void> {
    const { snapshots } = this.#layout;
    const temporary = join(snapshots, `${NEW_PREFIX}${id}`);
    const fs = join(temporary, 'fs');
    try {
      await mkdir(temporary, { mode: 0o700 });
      await mkdir(fs);
      if (parentId !== undefined) {
        const { uid, gid } = await stat(this.#layout.fs(parentId));
        await chown(fs, uid, gid);
      }
      await chmod(fs, 0o755); // whatever the umask
      if (active) {
        await mkdir(join(temporary, 'work'));
        await chmod(join(temporary, 'work'), 0o711);
      }
      if (imageRef !== undefined) await writeFile(join(temporary, 'image_ref'), imageRef, { mode: 0o600 });
      await rename(temporary, this.#layout.dir(id));
      await syncDirectory(snapshots);
    } catch (error) {
      await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
      throw ioError(error, `make the directory of snapshot ${id}`, temporary);
    }
  }

  /** Directories that no snapshot has. @param known asked after the directory was seen. @throws IoError */
  async leftovers(known: () => ReadonlySet<number>): Promise<{ path: string; id: number | undefined }[]> {
    const { snapshots } = this.#layout;
    try {
      const names = await readdir(snapshots);
      const ids = known();
      return names
        .map((name) => ({ path: join(snapshots, name), id: idOf(name) }))
        .filter(({ id }) => id === undefined || (!ids.has(id) && !this.#creating.has(id)));
    } catch (error) {
      throw ioError(error, `list "${snapshots}"`, snapshots);
    }
  }

  /** Removes a directory with all that is in it. Nothing may be mounted below. @throws IoError */
  async remove(path: string): Promise<void> {
    if (!existsSync(path)) return;
    try {
      await rm(path, { recursive: true, force: true });
    } catch (error) {
      throw ioError(error, `remove "${path}"`, path);
    }
  }
}

function idOf(name: string): number | undefined {
  const digits = /^(?:new-)?([1-9]\d*)$/.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

async function syncDirectory(path: string): Promise<void> {
  const dir = await open(path, 'r');
  try {
    await dir.sync();
  } finally {
    await dir.close();
  }
}
