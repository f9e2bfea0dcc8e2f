/**
 * Recording what a workload reads of an image (service.md D.5). The protocol with whoever wants the trace:
 *
 *   it makes an empty TRACE ─► the device opens, TRACE.lock appears ─► it removes TRACE.lock (or the device closes)
 *       ─► within a second the trace is written, TRACE.lock is gone, TRACE.ok appears
 *
 * A layer that is recorded is not planned by I/O workers: its reads all pass here. Nothing of this is in the way of a
 * device that is not recorded.
 */
import { open, rm, stat } from 'node:fs/promises';
import { ioError, type ReadableBlob, type ReadOptions } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { encodeTrace, MAX_RECORD_BYTES, MAX_RECORDS, type TraceRecord } from './trace-file.js';

/** How often somebody looks whether the lock is still there. */
const POLL_MS = 1000;

/** Options of a recording. */
export interface RecordingOptions {
  readonly log: Logger;
  /** For tests. Default 1 s, as the reference. */
  readonly pollMs?: number;
}

/** A trace that is being recorded. */
export class TraceRecording {
  readonly #path: string;
  readonly #log: Logger;
  readonly #timer: NodeJS.Timeout;
  /** In the order in which the reads were asked for; a count of 0 if one failed. */
  readonly #records: { layer: number; offset: number; count: number }[] = [];
  /** As {@link encodeTrace} will count them. */
  #pieces = 0;
  #recording = true;
  #ended: Promise<void> | undefined;

  private constructor(path: string, { log, pollMs }: RecordingOptions) {
    this.#path = path;
    this.#log = log;
    this.#timer = setInterval(() => void this.#look(), pollMs ?? POLL_MS).unref();
  }

  /**
   * Begins to record into the empty file `path`; makes its lock.
   * @throws IoError OBD_IO_EXISTS if there is a lock already: another device records into the same file.
   */
  static async begin(path: string, options: RecordingOptions): Promise<TraceRecording> {
    try {
      await (await open(`${path}.lock`, 'wx', 0o644)).close();
      // Of a recording before; whoever waits for this one must not take it for ours.
      await rm(`${path}.ok`, { force: true });
    } catch (error) {
      throw ioError(error, `record a trace: make "${path}.lock"`, `${path}.lock`);
    }
    options.log.info({ trace: path }, 'a trace is being recorded');
    return new TraceRecording(path, options);
  }

  /** Reads recorded so far. */
  get length(): number {
    return this.#records.length;
  }

  /** The layer's LSMT file, seen through this: what is read of it is recorded. Owns `blob`. */
  tap(layer: number, blob: ReadableBlob): ReadableBlob {
    return {
      name: blob.name,
      size: blob.size,
      read: (offset: number, into: Uint8Array, options?: ReadOptions) =>
        this.#recording ? this.#read(layer, blob, offset, into, options) : blob.read(offset, into, options),
      close: () => blob.close(),
    };
  }

  /** Ends the recording: writes the trace and tells whoever waits. Idempotent; failures are logged. */
  end(): Promise<void> {
    this.#ended ??= this.#write();
    return this.#ended;
  }

  /** The device did not come to be: there is no trace. Never rejects. */
  async abandon(): Promise<void> {
    this.#ended ??= Promise.resolve();
    this.#stop();
    await rm(`${this.#path}.lock`, { force: true }).catch(() => undefined);
  }

  async #read(
    layer: number,
    blob: ReadableBlob,
    offset: number,
    into: Uint8Array,
    options?: ReadOptions,
  ): Promise<void> {
    const record = { layer, offset, count: into.byteLength };
    const pieces = Math.ceil(record.count / MAX_RECORD_BYTES);
    if (this.#pieces + pieces > MAX_RECORDS) {
      this.#recording = false;
      this.#log.warn(
        { trace: this.#path, records: MAX_RECORDS },
        'the trace is full, later reads are not in it',
      );
    } else {
      this.#pieces += pieces;
      this.#records.push(record);
    }
    try {
      await blob.read(offset, into, options);
    } catch (error) {
      record.count = 0;
      throw error;
    }
  }

  #stop(): void {
    clearInterval(this.#timer);
    this.#recording = false;
  }

  async #look(): Promise<void> {
    try {
      await stat(`${this.#path}.lock`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') await this.end();
    }
  }

  async #write(): Promise<void> {
    this.#stop();
    const records: readonly TraceRecord[] = this.#records;
    try {
      const bytes = encodeTrace(records);
      // Whoever made the file knows it by its inode too, so it is not replaced.
      const file = await open(this.#path, 'r+');
      try {
        await file.truncate(0);
        await file.writeFile(bytes);
        await file.sync();
      } finally {
        await file.close();
      }
      await rm(`${this.#path}.lock`, { force: true });
      await (await open(`${this.#path}.ok`, 'wx', 0o644)).close();
      this.#log.info({ trace: this.#path, records: records.length }, 'trace is recorded');
    } catch (error) {
      this.#log.error({ trace: this.#path, err: error }, 'trace is not recorded');
      await rm(`${this.#path}.lock`, { force: true }).catch(() => undefined);
    }
    this.#records.length = 0;
  }
}
