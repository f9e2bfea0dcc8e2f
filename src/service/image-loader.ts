import { BlockDevice } from '../blockdev/index.js';
import type { ImageOpener } from '../image/index.js';
import type { ImageLoader } from './openings.js';

/** Opens images with the process's registry client and caches, as front ends want them. */
export function imageLoader(opener: ImageOpener): ImageLoader {
  return async (configPath, signal) => {
    const image = await opener.open(configPath, { signal, download: true });
    const device = new BlockDevice(image.blob, { readOnly: image.readOnly, planner: image.planner });
    return { device, stats: () => image.stats() };
  };
}
