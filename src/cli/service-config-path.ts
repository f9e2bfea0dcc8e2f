import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { DEFAULT_SERVICE_CONFIG_PATH } from '../image/index.js';
import { packageRoot } from '../native/index.js';

/** overlaybd.json of a command: the one named, else the system's, else the one that comes with the package. */
export async function serviceConfigPath(named?: string): Promise<string> {
  if (named !== undefined) return named;
  const system = await access(DEFAULT_SERVICE_CONFIG_PATH).then(
    () => true,
    () => false,
  );
  return system ? DEFAULT_SERVICE_CONFIG_PATH : join(packageRoot, 'config', 'overlaybd.json');
}
