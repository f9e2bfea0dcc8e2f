/**
 * Opening images: bounded, counted, reported. Every front end opens through here, whoever asked it to (the admin API, or
 * the kernel on behalf of a program that wrote to configfs), so this is where a device's life can be watched from its
 * first moment, and where the result file is written.
 */
import type { BlockDevice } from '../blockdev/index.js';
import { writeResultFile, type FetchRecord, type SnapshotResult } from '../image/index.js';
import type { Logger } from '../log/index.js';
import type { DownloadState } from './download-info.js';
import { resultPathOf } from './result-path.js';

/** What an open image says about itself. Cheap. */
export interface ImageStats {
  /** Bytes that came from a registry for this image since it was opened. */
  readonly bytesFetched: number;
  /** How far the background download is, if there is one. */
  readonly download?: DownloadState | undefined;
  /** Stored bytes of the layers that come from a registry; 0 if all are local files. */
  readonly remoteBytes: number;
  /** How many of those are on local disk now. */
  readonly presentBytes: number;
}

/** An image ready to be shown by a front end. */
export interface OpenedImage {
  readonly device: BlockDevice;
  /** What came from registries for it. */
  readonly fetches?: FetchRecord | undefined;
  stats(): ImageStats;
  /** See `HostedImage.snapshot`. Absent where there is no such thing. */
  readonly snapshot?: (newConfigPath: string) => Promise<SnapshotResult>;
}

/** Opens the image of a configuration file. Calls overlap. Aborting rejects it and leaves nothing open. */
export type ImageLoader = (configPath: string, signal: AbortSignal) => Promise<OpenedImage>;

/** One attempt to open an image. */
export interface Opening {
  readonly configPath: string;
  readonly startedAt: Date;
  /** Undefined while it is being opened. */
  readonly endedAt: Date | undefined;
  readonly image: OpenedImage | undefined;
  readonly error: unknown;
}

interface MutableOpening {
  readonly configPath: string;
  readonly startedAt: Date;
  endedAt: Date | undefined;
  image: OpenedImage | undefined;
  error: unknown;
}

/** Layers of one image open in parallel too; more devices at once only wait for the same registry. */
const MAX_CONCURRENT = 32;
/** Failures that an operator can still ask about. */
const MAX_FAILED = 64;

/** See the head of this file. */
export class Openings {
  readonly #load: ImageLoader;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  readonly #running = new Set<MutableOpening>();
  readonly #failed: MutableOpening[] = [];
  /** Goes with the device, whoever ends it. */
  readonly #opened = new WeakMap<BlockDevice, MutableOpening>();
  readonly #waiting: (() => void)[] = [];
  #slots = MAX_CONCURRENT;

  constructor(load: ImageLoader, log: Logger) {
    this.#load = load;
    this.#log = log;
  }

  /** The `ImageOpener` of every front end. */
  readonly open = async (configPath: string): Promise<BlockDevice> => {
    const opening: MutableOpening = {
      configPath,
      startedAt: new Date(),
      endedAt: undefined,
      image: undefined,
      error: undefined,
    };
    this.#running.add(opening);
    await this.#takeSlot();
    try {
      this.#stop.signal.throwIfAborted();
      opening.image = await this.#load(configPath, this.#stop.signal);
      this.#opened.set(opening.image.device, opening);
      this.#dropFailures(configPath);
      this.#log.info({ configPath, size: opening.image.device.size }, 'image opened');
      return opening.image.device;
    } catch (error) {
      opening.error = error;
      this.#dropFailures(configPath);
      this.#failed.push(opening);
      if (this.#failed.length > MAX_FAILED) this.#failed.shift();
      this.#log.error({ configPath, err: error }, 'image did not open');
      throw error;
    } finally {
      opening.endedAt = new Date();
      this.#running.delete(opening);
      this.#giveSlot();
      await this.#report(opening);
    }
  };

  /** The attempt that gave this device. */
  of(device: BlockDevice): Opening | undefined {
    return this.#opened.get(device);
  }

  /** Attempts under way, oldest first. */
  running(): readonly Opening[] {
    return [...this.#running];
  }

  /** The last failure of each configuration that was not opened since, oldest first; bounded. */
  failed(): readonly Opening[] {
    return [...this.#failed];
  }

  /** Forgets the failures of a configuration; false if there was none. */
  dismiss(configPath: string): boolean {
    return this.#dropFailures(configPath);
  }

  /** Rejects what is being opened and what is asked for from now on. */
  close(): void {
    this.#stop.abort(new Error('The service is stopping'));
    for (const go of this.#waiting.splice(0)) go();
  }

  #dropFailures(configPath: string): boolean {
    const before = this.#failed.length;
    for (let i = before - 1; i >= 0; i--)
      if (this.#failed[i]?.configPath === configPath) this.#failed.splice(i, 1);
    return this.#failed.length < before;
  }

  async #takeSlot(): Promise<void> {
    if (this.#slots > 0) this.#slots--;
    else if (!this.#stop.signal.aborted) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** A slot goes straight to who waits longest. */
  #giveSlot(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#slots++;
    else next();
  }

  async #report(opening: MutableOpening): Promise<void> {
    const path = await resultPathOf(opening.configPath);
    try {
      await writeResultFile(path, opening.error);
    } catch (error) {
      this.#log.warn({ configPath: opening.configPath, path, err: error }, 'result file not written');
    }
  }
}
