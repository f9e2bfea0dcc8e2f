import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError, ioError, OverlaybdError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { downloadLayer, type DownloadLayer } from './download-layer.js';
import { RateLimit } from './rate-limit.js';

/** The keys of `download` that matter here, spelt as in overlaybd.json. */
export interface DownloadKeys {
  /** Seconds to wait before anything is downloaded: a container's first reads come first. */
  readonly delay: number;
  /** Up to this many seconds more, at random: a thousand machines start the same image at once. */
  readonly delayExtra: number;
  /** MiB per second. */
  readonly maxMBps: number;
  /** Attempts per layer. */
  readonly tryCnt: number;
  /** Bytes of one read. */
  readonly blockSize: number;
}

/** For tests, and what has no key. */
export interface DownloadOptions {
  /** Bytes of the file system to leave free. Default 1 GiB. */
  readonly minFree?: number;
  /** In [0, 1). */
  readonly random?: () => number;
  /** Wait after the first failed attempt, doubled each time. Default 1 s. */
  readonly retryMs?: number;
}

/** How far a {@link Download} is. */
export interface DownloadProgress {
  readonly state: 'waiting' | 'running' | 'done' | 'stopped';
  readonly layers: number;
  readonly layersDone: number;
  /** Layers given up after `tryCnt` attempts. */
  readonly layersFailed: number;
  readonly bytes: number;
  /** Why the last attempt failed, until one of that layer succeeds. */
  readonly failure: OverlaybdError | undefined;
}

/** Longest wait between two attempts, or two looks at a layer that somebody else downloads. */
const LONGEST_WAIT_MS = 60_000;

/**
 * The background download of one device's remote layers, one after the other (service.md D.2). Starts to count its
 * delay when it is made. Failures are logged and end with the layer; the device goes on without.
 */
export class Download {
  /** Settles, never rejects, when every layer is there or given up, or after {@link stop}. */
  readonly done: Promise<void>;
  readonly #layers: readonly DownloadLayer[];
  readonly #keys: DownloadKeys;
  readonly #options: DownloadOptions;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  readonly #rate: RateLimit;
  #state: DownloadProgress['state'] = 'waiting';
  #layersDone = 0;
  #layersFailed = 0;
  #bytesDone = 0;
  #bytesOfLayer = 0;
  #failure: { readonly layer: DownloadLayer; readonly error: OverlaybdError } | undefined;

  /**
   * @param layers closing the blob of one stops the whole download: the device is going.
   * @throws ConfigError OBD_CONFIG_VALUE
   */
  constructor(
    layers: readonly DownloadLayer[],
    keys: DownloadKeys,
    log: Logger,
    options: DownloadOptions = {},
  ) {
    for (const key of ['blockSize', 'tryCnt'] as const)
      if (!(keys[key] >= 1 && keys[key] <= 2 ** 30))
        throw new ConfigError(
          'OBD_CONFIG_VALUE',
          `Cannot use "download.${key}": found ${keys[key]}, expected 1 to ${2 ** 30}`,
          { source: `download.${key}`, actual: keys[key] },
        );
    this.#layers = layers;
    this.#keys = keys;
    this.#log = log;
    this.#options = options;
    this.#rate = new RateLimit(keys.maxMBps > 0 ? keys.maxMBps * 2 ** 20 : Infinity);
    for (const { blob } of layers) blob.beforeClose(() => this.stop());
    this.done = this.#run();
  }

  get progress(): DownloadProgress {
    return {
      state: this.#state,
      layers: this.#layers.length,
      layersDone: this.#layersDone,
      layersFailed: this.#layersFailed,
      bytes: this.#bytesDone + this.#bytesOfLayer,
      failure: this.#failure?.error,
    };
  }

  /** Ends the download; what is on disk stays, and is gone on with next time. Idempotent. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.done;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    const { delay, delayExtra } = this.#keys;
    const extra = Math.floor((this.#options.random ?? Math.random)() * Math.max(0, delayExtra));
    try {
      await this.#wait((delay + extra) * 1000);
      this.#state = 'running';
      const queue = this.#layers.map((layer) => ({
        layer,
        failures: 0,
        waitMs: this.#options.retryMs ?? 1000,
      }));
      for (let next = queue.shift(); next; next = queue.shift()) {
        const outcome = await this.#attempt(next.layer, ++next.failures);
        if (outcome === 'done') this.#layersDone++;
        else if (outcome === 'failed' && next.failures >= this.#keys.tryCnt) this.#layersFailed++;
        else {
          // Somebody else is at it: that is no failure of ours.
          if (outcome === 'busy') next.failures--;
          queue.push(next);
          await this.#wait(next.waitMs);
          next.waitMs = Math.min(next.waitMs * 2, LONGEST_WAIT_MS);
        }
      }
      this.#state = 'done';
    } catch (error) {
      this.#state = 'stopped';
      // Everything but the abort is caught where it happens.
      if (!signal.aborted) this.#log.error({ err: error }, 'Background download ended');
    }
  }

  #wait(ms: number): Promise<void> {
    return sleep(ms, undefined, { signal: this.#stop.signal });
  }

  async #attempt(layer: DownloadLayer, attempt: number): Promise<'done' | 'busy' | 'failed'> {
    const { signal } = this.#stop;
    const log = this.#log.child({ digest: layer.digest, dir: layer.dir });
    const began = performance.now();
    try {
      const ours = await downloadLayer(layer, {
        rate: this.#rate,
        blockSize: this.#keys.blockSize,
        minFree: this.#options.minFree ?? 2 ** 30,
        log,
        signal,
        progress: (done) => (this.#bytesOfLayer = done),
      });
      this.#bytesOfLayer = 0;
      if (!ours) return 'busy';
      if (this.#failure?.layer === layer) this.#failure = undefined;
      this.#bytesDone += layer.blob.size;
      log.info({ bytes: layer.blob.size, ms: Math.round(performance.now() - began) }, 'Layer is downloaded');
      return 'done';
    } catch (error) {
      signal.throwIfAborted();
      this.#bytesOfLayer = 0;
      const known =
        error instanceof OverlaybdError ? error : ioError(error, `download into "${layer.dir}"`, layer.dir);
      this.#failure = { layer, error: known };
      const { tryCnt } = this.#keys;
      log.warn({ err: known, code: known.code, attempt, tryCnt }, 'Layer could not be downloaded');
      return 'failed';
    }
  }
}
