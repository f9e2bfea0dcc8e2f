import { DeviceError } from '../blob/index.js';
import { imageOf, type Attachment } from '../blockdev/index.js';
import type { Logger } from '../log/index.js';
import type { SnapshotInfo } from './api.js';
import type { Openings } from './openings.js';

/**
 * Takes a live snapshot of a device, and says so in the log.
 * @throws DeviceError OBD_DEVICE_UNSUPPORTED, OBD_DEVICE_BUSY; what `HostedImage.snapshot` throws.
 */
export async function takeDeviceSnapshot(
  { id, device, configPath }: Attachment,
  newConfigPath: string,
  { openings, log }: { readonly openings: Openings; readonly log: Logger },
): Promise<SnapshotInfo> {
  const image = openings.of(imageOf(device))?.image;
  if (image?.snapshot === undefined)
    throw new DeviceError(
      'OBD_DEVICE_UNSUPPORTED',
      `Cannot take a snapshot of "${id}": it is not an image's`,
    );
  try {
    const result = await image.snapshot(newConfigPath);
    log.info({ dev: id, ...result }, 'live snapshot taken');
    return { id, configPath, ...result };
  } catch (error) {
    log.warn({ dev: id, newConfigPath, err: error }, 'live snapshot not taken');
    throw error;
  }
}
