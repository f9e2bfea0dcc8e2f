/**
 * Files that an installation puts in place, and takes away again. A record of what was written (a digest for each path)
 * tells our own files from those that a person has changed since:
 *
 *   on disk                     install                              --force                     uninstall
 *   nothing                     written                              written                     -
 *   as it should be             left                                 left                        removed
 *   as we last wrote it         replaced                             replaced                    removed
 *   anything else               kept; ours goes beside it as .new    replaced; theirs is .old    kept (--force: removed)
 *
 * Every write is to a temporary name, synced and renamed.
 */
import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, readFile, readlink, realpath, rename, rm, rmdir, symlink } from 'node:fs/promises';
import { basename, dirname, join, sep } from 'node:path';
import { IoError, ioError, isSystemError, makeDirectory } from '../blob/index.js';

/** A file that should be there. */
export interface WantedFile {
  /** As the target machine has it. */
  readonly path: string;
  readonly content: string;
  readonly mode: number;
  /** For people. */
  readonly what: string;
  /** Written if there is none, and then a person's: never replaced, never removed. */
  readonly seed?: boolean;
}

/** A symbolic link that should be there. */
export interface WantedLink {
  readonly path: string;
  readonly target: string;
}

/** What was done with a path, or would be. */
export type FileOutcome = 'written' | 'replaced' | 'unchanged' | 'kept' | 'removed' | 'absent';

/** One line of what was done. */
export interface FileResult {
  readonly path: string;
  readonly outcome: FileOutcome;
  readonly note?: string;
}

/** Where the record of what was written lies. */
export const RECORD_PATH = '/var/lib/overlaybd/install.json';

/** How to go about it. */
export interface FilesOptions {
  /** Directory below which all paths are; `/` for this machine. */
  readonly root: string;
  readonly force: boolean;
  readonly dryRun: boolean;
}

type Record_ = Record<string, string>;

/** The files of one installation. Open, change, save. */
export class InstalledFiles {
  readonly #options: FilesOptions;
  readonly #record: Record_;

  private constructor(options: FilesOptions, record: Record_) {
    this.#options = options;
    this.#record = record;
  }

  /** Reads the record; a missing or damaged one means that nothing is known to be ours. @throws IoError */
  static async open(options: FilesOptions): Promise<InstalledFiles> {
    const text = await readOptional(join(options.root, RECORD_PATH));
    let record: Record_ = {};
    try {
      const json: unknown = JSON.parse(text ?? '{}');
      const files = (json as { files?: unknown } | null)?.files;
      if (typeof files === 'object' && files !== null)
        record = Object.fromEntries(
          Object.entries(files).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
        );
    } catch {
      // As if there were none: files are kept rather than replaced.
    }
    return new InstalledFiles(options, record);
  }

  /** Paths that were written. */
  get recorded(): readonly string[] {
    return Object.keys(this.#record);
  }

  /** Puts one file in place. @throws IoError */
  async put(file: WantedFile): Promise<FileResult> {
    const { path, content } = file;
    const { force } = this.#options;
    const disk = await this.#disk(path);
    // A seed may be a secret: whether it is there is all that counts.
    const found = file.seed === true ? await this.#exists(disk) : await this.#read(disk);
    if (found === undefined) {
      await this.#write(disk, content, file.mode);
      this.#remember(file);
      return { path, outcome: 'written', note: file.what };
    }
    if (file.seed === true) return { path, outcome: 'unchanged', note: 'it is yours' };
    const known = this.#record[path];
    if (found === content) {
      this.#remember(file);
      return { path, outcome: 'unchanged' };
    }
    if (known !== undefined && digest(found) === known) {
      await this.#write(disk, content, file.mode);
      this.#remember(file);
      return { path, outcome: 'replaced', note: 'it was as the last installation left it' };
    }
    if (force) {
      const suffix = await freeSuffix(disk);
      if (!this.#options.dryRun) await this.#guard(rename(disk, disk + suffix), 'rename', disk);
      await this.#write(disk, content, file.mode);
      this.#remember(file);
      return { path, outcome: 'replaced', note: `yours is now ${path}${suffix}` };
    }
    // Their changes are to the text that we still have: nothing new to compare with.
    if (known === digest(content)) return { path, outcome: 'kept', note: 'you have changed it' };
    const beside = `${path}.new`;
    if ((await this.#read(`${disk}.new`)) !== content) await this.#write(`${disk}.new`, content, file.mode);
    this.#record[beside] = digest(content);
    return { path, outcome: 'kept', note: `it is not as we would write it; compare it with ${beside}` };
  }

  /** Puts a link in place; whatever else has the name stays. @throws IoError */
  async link({ path, target }: WantedLink): Promise<FileResult> {
    const disk = await this.#disk(path);
    const found = await lstat(disk).catch(() => undefined);
    if (found === undefined) {
      if (!this.#options.dryRun) {
        await this.#guard(makeDirectory(dirname(disk)), 'make the directory of', disk);
        await this.#guard(symlink(target, disk), 'make the link', disk);
      }
      this.#record[path] = `-> ${target}`;
      return { path, outcome: 'written', note: `link to ${target}` };
    }
    if (found.isSymbolicLink() && (await readlink(disk)) === target) {
      this.#record[path] = `-> ${target}`;
      return { path, outcome: 'unchanged' };
    }
    return { path, outcome: 'kept', note: `something else has this name; it is not a link to ${target}` };
  }

  /** Replaces a person's file that we were let into: one line of containerd's configuration. Mode and owner stay. */
  async edit(path: string, content: string): Promise<FileResult> {
    const disk = await this.#disk(path);
    const { mode, uid, gid } = await this.#guard(lstat(await realpath(disk)), 'look at', disk);
    await this.#write(await realpath(disk), content, mode & 0o7777, { uid, gid });
    return { path, outcome: 'replaced', note: 'one line; the rest is as it was' };
  }

  /** Takes one recorded path away, unless somebody has changed it. @throws IoError */
  async remove(path: string): Promise<FileResult> {
    const disk = await this.#disk(path);
    const known = this.#record[path];
    const found = await lstat(disk).catch(() => undefined);
    if (found === undefined) {
      this.#forget(path);
      return { path, outcome: 'absent' };
    }
    const content = found.isSymbolicLink()
      ? `-> ${await readlink(disk)}`
      : digest(await readFile(disk, 'utf8'));
    this.#forget(path); // if it stays, it is theirs from now on
    if (content !== known && !this.#options.force)
      return { path, outcome: 'kept', note: 'you have changed it' };
    if (!this.#options.dryRun) await this.#guard(rm(disk), 'remove', disk);
    return { path, outcome: 'removed' };
  }

  /** Removes directories that are empty; others stay without a word. */
  async removeEmpty(paths: readonly string[]): Promise<void> {
    if (this.#options.dryRun) return;
    for (const path of paths) await rmdir(join(this.#options.root, path)).catch(() => undefined);
  }

  /** Writes the record, or removes it when it is empty. @throws IoError */
  async save(): Promise<void> {
    if (this.#options.dryRun) return;
    const disk = await this.#disk(RECORD_PATH);
    if (this.recorded.length === 0) {
      await rm(disk, { force: true });
      return;
    }
    const files = Object.fromEntries(Object.entries(this.#record).sort(([a], [b]) => (a < b ? -1 : 1)));
    const text = `${JSON.stringify({ files }, undefined, 2)}\n`;
    if ((await readOptional(disk)) !== text) await this.#write(disk, text, 0o644);
  }

  #remember({ path, content, seed }: WantedFile): void {
    if (seed !== true) this.#record[path] = digest(content);
  }

  #forget(path: string): void {
    // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- a record by path is what this is
    delete this.#record[path];
  }

  /** Where a path of the target lies here. @throws IoError if a link on the way leads out of the root. */
  async #disk(path: string): Promise<string> {
    const { root } = this.#options;
    const disk = join(root, path);
    if (root === '/') return disk;
    const top = await realpath(root).catch(() => root);
    for (let dir = dirname(disk); dir.length > root.length; dir = dirname(dir)) {
      const real = await realpath(dir).catch(() => undefined);
      if (real === undefined) continue;
      if (real !== top && !real.startsWith(top.endsWith(sep) ? top : top + sep))
        throw new IoError(
          'OBD_IO_FAILED',
          `Cannot write "${disk}": "${dir}" is a link to "${real}", outside of "${root}"`,
          {
            source: disk,
          },
        );
      break;
    }
    return disk;
  }

  async #exists(disk: string): Promise<string | undefined> {
    return (await lstat(disk).catch(() => undefined)) === undefined ? undefined : '';
  }

  /** Text of a file; a link counts as somebody's own arrangement, whatever it leads to. */
  async #read(disk: string): Promise<string | undefined> {
    const found = await lstat(disk).catch((error: unknown) => {
      if (isSystemError(error) && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return undefined;
      throw ioError(error, `look at "${disk}"`, disk);
    });
    if (found === undefined) return undefined;
    if (!found.isFile()) return `${found.isSymbolicLink() ? 'a link' : 'not a file'}\0`;
    return this.#guard(readFile(disk, 'utf8'), 'read', disk);
  }

  async #write(
    disk: string,
    content: string,
    mode: number,
    owner?: { readonly uid: number; readonly gid: number },
  ): Promise<void> {
    if (this.#options.dryRun) return;
    const temporary = join(dirname(disk), `.${basename(disk)}.${randomBytes(6).toString('hex')}.tmp`);
    try {
      await makeDirectory(dirname(disk));
      const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
      const file = await open(temporary, flags, mode);
      try {
        await file.writeFile(content);
        await file.chmod(mode); // whatever the umask
        if (owner !== undefined) await file.chown(owner.uid, owner.gid);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, disk);
      const dir = await open(dirname(disk), 'r');
      try {
        await dir.sync();
      } finally {
        await dir.close();
      }
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => undefined);
      throw ioError(error, `write "${disk}"`, disk);
    }
  }

  async #guard<T>(work: Promise<T>, action: string, disk: string): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw ioError(error, `${action} "${disk}"`, disk);
    }
  }
}

/** `.old`, or `.old.2` and so on if that is taken: what a person wrote is not lost to a second --force either. */
async function freeSuffix(disk: string): Promise<string> {
  for (let n = 1; ; n++) {
    const suffix = n === 1 ? '.old' : `.old.${n}`;
    if ((await lstat(disk + suffix).catch(() => undefined)) === undefined) return suffix;
  }
}

function digest(text: string): string {
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}

async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isSystemError(error) && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return undefined;
    throw ioError(error, `read "${path}"`, path);
  }
}
