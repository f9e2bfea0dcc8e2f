/**
 * The ext4 of a disk, read in user space: directories one by one, through a thread that has the file system open
 * (disk-worker.ts), and content straight from the disk.
 */
import { Worker } from 'node:worker_threads';
import { abortedError, extentsOf, OverlaybdError, type ReadableBlob } from '../blob/index.js';
import { ext4SourcePair } from '../native/index.js';
import { BlockSource, dataRuns } from '../tools/index.js';
import { ContentDigest } from './content-digest.js';
import type { DiskAnswer, DiskInode, DiskJob, DiskName, DiskQuestion } from './disk-worker.js';

/** Bytes of content read at once. */
const STEP = 1024 * 1024;
const ROOT = 2;

/** How a disk is read. */
export interface DiskTreeOptions {
  /** Where a work file goes that holds metadata. */
  readonly workDir: string;
  readonly signal?: AbortSignal;
}

/** See the head of this file. Questions may overlap. */
export class DiskTree {
  readonly #disk: ReadableBlob;
  readonly #source: BlockSource;
  readonly #thread: Worker;
  readonly #signal: AbortSignal | undefined;
  readonly #ended: Promise<void>;
  readonly #waiting: {
    readonly resolve: (names: readonly DiskName[]) => void;
    readonly reject: (error: Error) => void;
  }[] = [];
  #failure: Error | undefined;

  private constructor(disk: ReadableBlob, source: BlockSource, thread: Worker, signal?: AbortSignal) {
    this.#disk = disk;
    this.#source = source;
    this.#thread = thread;
    this.#signal = signal;
    thread.on('message', (answer: DiskAnswer) => {
      const asked = this.#waiting.shift();
      if ('names' in answer) asked?.resolve(answer.names);
      else asked?.reject(this.#errorOf(answer.failed));
    });
    thread.once('error', (error) => {
      this.#fail(error);
    });
    this.#ended = new Promise((resolve) => {
      thread.once('exit', () => {
        this.#fail(
          signal?.aborted === true
            ? abortedError('read a file system', signal)
            : new Error('The thread that reads the file system ended'),
        );
        resolve();
      });
    });
    signal?.addEventListener('abort', this.#stop, { once: true });
  }

  /** @throws ConvertError if the disk holds no ext4 that can be read. The disk stays the caller's. */
  static async open(disk: ReadableBlob, { workDir, signal }: DiskTreeOptions): Promise<DiskTree> {
    if (signal?.aborted === true) throw abortedError('read a file system', signal);
    const size = disk.size - (disk.size % 4096);
    const runs = dataRuns(extentsOf(disk, 0, size));
    const pair = ext4SourcePair();
    const source = new BlockSource(pair.server, disk);
    const job: DiskJob = { workDir, size, fd: pair.image, runs };
    const thread = new Worker(new URL('./disk-worker.js', import.meta.url), { workerData: job });
    const tree = new DiskTree(disk, source, thread, signal);
    try {
      await tree.#answer();
      return tree;
    } catch (error) {
      await tree.close();
      throw error;
    }
  }

  /** The root directory. */
  async root(): Promise<DiskInode> {
    const [root] = await this.#ask({ directory: ROOT, itself: true });
    if (root === undefined) throw new TypeError('Unreachable: one inode was asked for');
    return root;
  }

  /** What is in a directory. */
  list(directory: number): Promise<readonly DiskName[]> {
    return this.#ask({ directory, itself: false });
  }

  /** Digest of a file's content. */
  async digest({ size, extents = new Float64Array() }: Pick<DiskInode, 'size' | 'extents'>): Promise<string> {
    const content = new ContentDigest(size);
    let buffer: Uint8Array | undefined;
    for (let i = 0; i + 2 < extents.length; i += 3) {
      const offset = extents[i] ?? 0;
      const place = extents[i + 1] ?? 0;
      const length = Math.min(extents[i + 2] ?? 0, size - offset);
      for (let done = 0; done < length; done += STEP) {
        if (this.#signal?.aborted === true) throw abortedError('read a file', this.#signal);
        const step = Math.min(STEP, length - done);
        // The disk is read in sectors.
        buffer ??= new Uint8Array(Math.min(STEP, Math.ceil(size / 512) * 512));
        await this.#disk.read(place + done, buffer.subarray(0, Math.ceil(step / 512) * 512));
        content.add(offset + done, buffer.subarray(0, step));
      }
    }
    return content.end();
  }

  /** Ends the thread. */
  async close(): Promise<void> {
    this.#signal?.removeEventListener('abort', this.#stop);
    if (this.#failure === undefined) this.#thread.postMessage({ directory: 0, itself: false });
    this.#stop();
    await this.#ended;
    await this.#source.close();
  }

  readonly #stop = (): void => {
    // It may be waiting for an answer, in a call that only the end of the source ends.
    void this.#source.close();
    void this.#thread.terminate();
  };

  #ask(question: DiskQuestion): Promise<readonly DiskName[]> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const answer = this.#answer();
    this.#thread.postMessage(question);
    return answer;
  }

  #answer(): Promise<readonly DiskName[]> {
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }

  #errorOf({ code, message, hint }: Extract<DiskAnswer, { failed: unknown }>['failed']): Error {
    const cause = this.#source.failure;
    if (cause instanceof OverlaybdError) return cause;
    if (code === undefined) return new Error(message, { cause });
    return new OverlaybdError(code, message, {
      ...(hint === undefined ? {} : { hint }),
      ...(cause === undefined ? {} : { cause }),
    });
  }
}
