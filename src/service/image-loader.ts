import { BlockDevice, type IoPolicy } from '../blockdev/index.js';
import type { HostedImage, ImageOpener, IoPolicyConfig } from '../image/index.js';
import type { ImageLoader } from './openings.js';

/** A device that ends all that belongs to its image, the background download too. */
class ImageDevice extends BlockDevice {
  readonly #image: HostedImage;

  constructor(image: HostedImage, policy: IoPolicy) {
    super(image.blob, { readOnly: image.readOnly, planner: image.planner, policy });
    this.#image = image;
  }

  override close(): Promise<void> {
    return this.#image.close();
  }
}

/** The policy that a configuration's block means. */
export function ioPolicyOf({ retry, then }: IoPolicyConfig): IoPolicy {
  return { deadlineMs: retry * 1000, then };
}

/**
 * Opens images with the process's registry client and caches, as front ends want them.
 * @param ioPolicy the service's, for images whose configuration says nothing.
 */
export function imageLoader(opener: ImageOpener, ioPolicy: IoPolicyConfig): ImageLoader {
  return async (configPath, signal) => {
    const image = await opener.open(configPath, { signal, download: true, compact: true });
    const device = new ImageDevice(image, ioPolicyOf(image.config.ioPolicy ?? ioPolicy));
    return { device, fetches: image.fetches, stats: () => image.stats() };
  };
}
