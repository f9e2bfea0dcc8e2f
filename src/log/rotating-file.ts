/**
 * A log file that stays bounded: when it would grow beyond `maxBytes` it becomes NAME.1, what was NAME.1 becomes NAME.2,
 * and so on up to `keep`. Writing is synchronous, so that the last line before a crash is there; and a log that cannot be
 * written never fails its writer: lines are dropped, and how many is said in the next line that can be written.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  openSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { makeDirectorySync } from '../blob/index.js';

/** Bounds of a log on disk: at most (keep + 1) x maxBytes, and a line. */
export interface Rotation {
  readonly maxBytes: number;
  /** Old files kept; 0 starts anew in place. */
  readonly keep: number;
}

/** A destination for lines of text. One per path and process. */
export class RotatingFile {
  readonly #path: string;
  readonly #rotation: Rotation;
  #fd: number;
  #size: number;
  #dropped = 0;

  /** @throws a system error if the file cannot be opened. */
  constructor(path: string, rotation: Rotation) {
    this.#path = path;
    this.#rotation = rotation;
    this.#fd = openLog(path);
    this.#size = fstatSync(this.#fd).size;
  }

  /**
   * Goes on in the file that has the path now, or in a new one: somebody else has renamed ours (logrotate).
   * @throws a system error if that cannot be opened: then the old file is gone on with.
   */
  reopen(): void {
    const fd = openLog(this.#path);
    closeSync(this.#fd);
    this.#fd = fd;
    this.#size = fstatSync(fd).size;
  }

  /** Appends one line, newline included. Never throws. */
  write(line: string): void {
    const lost =
      this.#dropped === 0
        ? ''
        : `${JSON.stringify({ level: 'warn', dropped: this.#dropped, msg: 'log lines were lost' })}\n`;
    const bytes = Buffer.from(lost + line);
    try {
      if (this.#size > 0 && this.#size + bytes.byteLength > this.#rotation.maxBytes) this.#rotate();
      writeAll(this.#fd, bytes);
      this.#size += bytes.byteLength;
      this.#dropped = 0;
    } catch {
      this.#dropped++;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** Where files cannot be renamed the old lines go, so that the bound holds. */
  #rotate(): void {
    try {
      this.#shift();
      const fd = openLog(this.#path);
      closeSync(this.#fd);
      this.#fd = fd;
    } catch {
      ftruncateSync(this.#fd);
    }
    this.#size = fstatSync(this.#fd).size;
  }

  #shift(): void {
    const { keep } = this.#rotation;
    const name = (n: number): string => (n === 0 ? this.#path : `${this.#path}.${n}`);
    if (keep === 0) unlinkSync(this.#path);
    for (let n = keep - 1; n >= 0; n--) {
      if (n > 0 && !existsSync(name(n))) continue;
      renameSync(name(n), name(n + 1));
    }
  }
}

function openLog(path: string): number {
  makeDirectorySync(dirname(path));
  return openSync(path, 'a', 0o640);
}

function writeAll(fd: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.byteLength;) done += writeSync(fd, bytes, done);
}
