import { BlockDevice } from '../blockdev/index.js';
import type { HostedImage, ImageOpener } from '../image/index.js';
import type { ImageLoader } from './openings.js';

/** A device that ends all that belongs to its image, the background download too. */
class ImageDevice extends BlockDevice {
  readonly #image: HostedImage;

  constructor(image: HostedImage) {
    super(image.blob, { readOnly: image.readOnly, planner: image.planner });
    this.#image = image;
  }

  override close(): Promise<void> {
    return this.#image.close();
  }
}

/** Opens images with the process's registry client and caches, as front ends want them. */
export function imageLoader(opener: ImageOpener): ImageLoader {
  return async (configPath, signal) => {
    const image = await opener.open(configPath, { signal, download: true, compact: true });
    return { device: new ImageDevice(image), stats: () => image.stats() };
  };
}
