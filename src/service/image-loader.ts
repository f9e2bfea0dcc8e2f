import { BlockDevice, type IoPolicy } from '../blockdev/index.js';
import type { HostedImage, ImageOpener, IoPolicyConfig } from '../image/index.js';
import type { Logger } from '../log/index.js';
import { Prefetch, type PrefetchTotals } from '../prefetch/index.js';
import type { ImageLoader } from './openings.js';

/** A device that ends all that belongs to its image, the background download too. */
class ImageDevice extends BlockDevice {
  readonly #image: HostedImage;
  readonly #prefetch: Prefetch;
  readonly #ended: () => void;

  /** @param ended called when nothing more is prefetched. */
  constructor(image: HostedImage, policy: IoPolicy, prefetch: Prefetch, ended: () => void) {
    super(image.blob, { readOnly: image.readOnly, planner: image.planner, policy });
    this.#image = image;
    this.#prefetch = prefetch;
    this.#ended = ended;
  }

  override async close(): Promise<void> {
    await this.#prefetch.close();
    this.#ended();
    await this.#image.close();
  }
}

/** The policy that a configuration's block means. */
export function ioPolicyOf({ retry, then }: IoPolicyConfig): IoPolicy {
  return { deadlineMs: retry * 1000, then };
}

/** What images are opened with besides their own configuration. */
export interface ImageLoaderOptions {
  readonly log: Logger;
  /** The service's, for images whose configuration says nothing. */
  readonly ioPolicy: IoPolicyConfig;
  /** Fetches at once while a trace is replayed. */
  readonly concurrency: number;
  /** Told of every prefetch. */
  readonly prefetched: PrefetchTotals;
  /** See `SnapshotHooks`. */
  readonly quiesce: () => Promise<void>;
}

/** Opens images with the process's registry client and caches, as front ends want them. */
export function imageLoader(opener: ImageOpener, options: ImageLoaderOptions): ImageLoader {
  const { log, ioPolicy, concurrency, prefetched, quiesce } = options;
  return async (configPath, signal) => {
    const config = await opener.load(configPath);
    const prefetch = await Prefetch.begin(config, { log: log.child({ image: configPath }), concurrency });
    try {
      const image = await opener.openConfig(config, {
        name: configPath,
        configPath,
        signal,
        download: true,
        compact: true,
        tap: prefetch.tap,
        foretold: prefetch.foretold,
      });
      prefetch.start(image);
      prefetched.add(prefetch);
      const device = new ImageDevice(image, ioPolicyOf(config.ioPolicy ?? ioPolicy), prefetch, () => {
        prefetched.remove(prefetch);
      });
      return {
        device,
        fetches: image.fetches,
        stats: () => image.stats(),
        snapshot: (newConfigPath) =>
          image.snapshot(newConfigPath, { replan: (planner) => device.replan(planner), quiesce }),
      };
    } catch (error) {
      await prefetch.abandon();
      throw error;
    }
  };
}
