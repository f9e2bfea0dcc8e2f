/**
 * A log that says in one record per segment what the old one says in many, put in its place while it is appended to.
 *
 * A copy of the map is written under another name, step by step, and what is appended meanwhile after it: whichever state
 * a step shows, the records behind it bring it up to date. The last of them, the flushes and the rename happen in one
 * turn of the log. Data is flushed before the new log: no record is on disk before what it names.
 */

import { rename, stat, unlink } from 'node:fs/promises';
import { ioError, SECTOR } from '../blob/index.js';
import type { CompactionHost } from './compaction.js';
import { HEADER_SIZE } from './format.js';
import { syncDirectoryOf } from './rw-header.js';
import { RwFile } from './rw-file.js';
import { MAX_SEGMENT_SECTORS, SEGMENT_SIZE, SEGMENT_WORDS, setDiskEntry } from './segment.js';
import { HOLE, SegmentList, ZEROED } from './segment-index.js';

/** Records written at once. */
const CHUNK = 1 << 16;
/** So few records are left to the turn in which writers wait; more are written before the copy goes on. */
const SMALL_BACKLOG = 4096;
/** Sectors of the map looked at in one step. */
const WALK = 1 << 15;

/** The name under which a new log is written; what a crash left there is worth nothing. */
export function rewrittenName(indexPath: string): string {
  return `${indexPath}.compact`;
}

/**
 * Puts a short log in the place of a long one, durably.
 * @param options `dead`: sectors of the data file that nothing may lie in any more; `last` runs in the same turn of the
 * log, after the new one is there.
 * @throws IoError; then the old log is still in its place, or the layer refuses every further flush.
 */
export async function rewriteLog(
  host: CompactionHost,
  options: {
    readonly signal: AbortSignal | undefined;
    readonly dead: { readonly start: number; readonly end: number };
    readonly last: () => Promise<void>;
  },
): Promise<void> {
  const { log, indexPath } = host;
  const path = rewrittenName(indexPath);
  await unlink(path).catch(() => undefined);
  const file = await RwFile.open(path, 'create', indexPath);
  const outcome = { inPlace: false };
  try {
    const copy = new LogCopy(host, file, options.dead);
    try {
      await copyOwner(indexPath, log.file, file);
      await copy.header();
      await copy.map(options.signal);
      while (copy.backlog > SMALL_BACKLOG) await copy.catchUp();
      await host.data.sync();
      await file.sync();
      await log.inTurn(async () => {
        await copy.catchUp();
        await host.data.sync();
        await file.sync();
        await rename(path, indexPath).catch((error: unknown) => {
          throw ioError(error, `rename "${path}" to "${indexPath}"`, indexPath);
        });
        outcome.inPlace = true;
        // A flush goes to the old log until the new one is what a crash would find.
        const doubt = await syncDirectoryOf(indexPath).then(
          () => undefined,
          (error: unknown) => ({ error }),
        );
        const old = log.file;
        log.replaceInTurn(file, copy.end);
        await old.close();
        if (doubt !== undefined) {
          // Perhaps the old log comes back with the power: nothing that is flushed from now on can be promised.
          file.distrust(doubt.error);
          throw doubt.error;
        }
        await options.last();
      });
    } finally {
      copy.stop();
    }
  } catch (error) {
    if (!outcome.inPlace) {
      await file.close();
      await unlink(path).catch(() => undefined);
    }
    throw error;
  }
}

/** The new log belongs to whom the old one belongs to. @throws IoError if there is something else of its name */
async function copyOwner(indexPath: string, old: RwFile, file: RwFile): Promise<void> {
  try {
    const [there, open] = [await stat(indexPath), await old.stat()];
    if (there.ino !== open.ino || there.dev !== open.dev)
      throw new Error('the name is not that of the open file');
    await file.setOwner(open.uid, open.gid, open.mode & 0o7777);
  } catch (error) {
    throw ioError(error, `replace "${indexPath}"`, indexPath);
  }
}

/** Writes the new log. */
class LogCopy {
  readonly #host: CompactionHost;
  readonly #file: RwFile;
  readonly #dead: { readonly start: number; readonly end: number };
  #words = new Uint32Array(CHUNK * SEGMENT_WORDS);
  #count = 0;
  #backlog: Uint32Array[] = [];
  /** Records in the backlog. */
  backlog = 0;
  /** Bytes written. */
  end = HEADER_SIZE;

  constructor(host: CompactionHost, file: RwFile, dead: { readonly start: number; readonly end: number }) {
    this.#host = host;
    this.#file = file;
    this.#dead = dead;
    host.log.observe((words) => {
      this.#backlog.push(words);
      this.backlog += words.length / SEGMENT_WORDS;
    });
  }

  stop(): void {
    this.#host.log.observe(undefined);
  }

  async header(): Promise<void> {
    const header = new Uint8Array(HEADER_SIZE);
    await this.#host.log.file.read(0, header);
    await this.#file.write(0, header);
  }

  async map(signal: AbortSignal | undefined): Promise<void> {
    const { map } = this.#host;
    const list = new SegmentList();
    for (let at = map.nextMapped(0); at < Infinity; at = map.nextMapped(at + WALK)) {
      signal?.throwIfAborted();
      map.lookup(at, WALK, list);
      for (let i = 0; i < list.length; i++) {
        const tag = list.tag[i] ?? HOLE;
        if (tag !== HOLE)
          await this.#add(list.lba[i] ?? 0, list.sectors[i] ?? 0, list.moffset[i] ?? 0, tag === ZEROED);
      }
      await this.#flush();
      if (this.backlog > SMALL_BACKLOG) await this.catchUp();
    }
  }

  /** Appends what the old log got meanwhile. */
  async catchUp(): Promise<void> {
    const words = new Uint32Array(this.backlog * SEGMENT_WORDS);
    let at = 0;
    for (const part of this.#backlog) {
      words.set(part, at);
      at += part.length;
    }
    this.#backlog = [];
    this.backlog = 0;
    if (at === 0) return;
    await this.#file.write(this.end, new Uint8Array(words.buffer));
    this.end += words.byteLength;
  }

  async #add(lba: number, sectors: number, moffset: number, zeroed: boolean): Promise<void> {
    if (!zeroed && moffset < this.#dead.end && moffset + sectors > this.#dead.start)
      throw new TypeError(`Compaction of "${this.#file.name}" left data at sector ${moffset} behind`);
    for (let done = 0; done < sectors; done += MAX_SEGMENT_SECTORS) {
      if (this.#count === CHUNK) await this.#flush();
      setDiskEntry(this.#words, this.#count++, {
        offset: lba + done,
        length: Math.min(MAX_SEGMENT_SECTORS, sectors - done),
        // Zeroes have no data; readers only ask that this be a sector behind the header.
        moffset: zeroed ? HEADER_SIZE / SECTOR : moffset + done,
        zeroed,
        tag: 0,
      });
    }
  }

  async #flush(): Promise<void> {
    const bytes = this.#count * SEGMENT_SIZE;
    if (bytes > 0) await this.#file.write(this.end, new Uint8Array(this.#words.buffer, 0, bytes));
    this.end += bytes;
    this.#count = 0;
  }
}
