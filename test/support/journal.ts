/**
 * What a machine's disk may hold after the power failed at some moment while a layer was written to and compacted. Every
 * operation on the layer's files is written down; a moment is a number of operations.
 */
import { type TestContext } from 'node:test';
import { LogWriter } from '../../src/lsmt/index-log.js';
import { RwFile } from '../../src/lsmt/rw-file.js';

type Operation =
  | { readonly kind: 'write'; readonly file: RwFile; readonly offset: number; readonly bytes: Buffer }
  | { readonly kind: 'truncate'; readonly file: RwFile; readonly size: number }
  /** What was written before it is durable from moment `done` on. */
  | { readonly kind: 'sync'; readonly file: RwFile; done: number }
  | { readonly kind: 'replace'; readonly file: RwFile; readonly by: RwFile };

const PAGE = 4096;

/** Watches every RwFile of this process until the test ends. */
export class Journal {
  readonly #operations: Operation[] = [];

  constructor(t: TestContext) {
    const operations = this.#operations;
    const write = Reflect.get(RwFile.prototype, 'write');
    const truncate = Reflect.get(RwFile.prototype, 'truncate');
    const sync = Reflect.get(RwFile.prototype, 'sync');
    const replaceInTurn = Reflect.get(LogWriter.prototype, 'replaceInTurn');
    t.after(() => {
      Object.assign(RwFile.prototype, { write, truncate, sync });
      LogWriter.prototype.replaceInTurn = replaceInTurn;
    });
    RwFile.prototype.write = async function (offset, from) {
      operations.push({ kind: 'write', file: this, offset, bytes: Buffer.from(from) });
      await write.call(this, offset, from);
    };
    RwFile.prototype.truncate = async function (size) {
      operations.push({ kind: 'truncate', file: this, size });
      await truncate.call(this, size);
    };
    RwFile.prototype.sync = async function () {
      const operation: Operation = { kind: 'sync', file: this, done: Infinity };
      operations.push(operation);
      await sync.call(this);
      operation.done = operations.length;
    };
    LogWriter.prototype.replaceInTurn = function (file, end) {
      operations.push({ kind: 'replace', file: this.file, by: file });
      replaceInTurn.call(this, file, end);
    };
  }

  /** Now, as a moment. */
  get length(): number {
    return this.#operations.length;
  }

  /** The first file that was written under this name. */
  #first(name: string): RwFile | undefined {
    return this.#operations.find(({ file }) => file.name === name)?.file;
  }

  /**
   * What may be on disk under `name` at a moment: every page written since the file's last fdatasync is there or not,
   * each by itself; so is a change of its length, and a rename that is about to be durable.
   */
  survivor(name: string, moment: number, choose: () => number): Buffer {
    const past = this.#operations.slice(0, moment);
    let file = this.#first(name);
    this.#operations.forEach((operation, i) => {
      if (operation.kind !== 'replace' || operation.file !== file) return;
      const synced = this.#operations
        .slice(0, i)
        .findLast((o) => o.kind === 'sync' && o.file === operation.by);
      const ready = synced?.kind === 'sync' ? synced.done : Infinity;
      if (i < moment || (ready <= moment && choose() % 2 === 0)) file = operation.by;
    });
    const own = past.filter((operation) => operation.file === file);
    const synced = own.findLastIndex((o) => o.kind === 'sync' && o.done <= moment);
    const durable = replay(own.slice(0, synced + 1));
    const written = replay(own);
    const low = Math.min(durable.length, written.length);
    const size = low + (choose() % (Math.abs(written.length - durable.length) + 1));
    const out = Buffer.alloc(size);
    for (let at = 0; at < size; at += PAGE) {
      const from = choose() % 2 === 0 ? written : durable;
      out.set(from.subarray(at, Math.min(at + PAGE, size)), at);
    }
    return out;
  }
}

function replay(operations: readonly Operation[]): Buffer {
  let image = Buffer.alloc(0);
  for (const operation of operations)
    if (operation.kind === 'write') {
      const end = operation.offset + operation.bytes.length;
      if (end > image.length) image = Buffer.concat([image, Buffer.alloc(end - image.length)]);
      operation.bytes.copy(image, operation.offset);
    } else if (operation.kind === 'truncate') image = Buffer.concat([image], operation.size);
  return image;
}
