/** Which front ends this machine and the configuration allow. */
import { DeviceError } from '../blob/index.js';
import { fuseUnsupported, tcmuAvailable, type Transport } from '../blockdev/index.js';
import type { ServiceConfig } from '../image/index.js';

/** What was found. */
export interface Transports {
  /** Best first. */
  readonly usable: readonly Transport[];
  readonly unsupported: ReadonlyMap<Transport, string>;
}

/** @throws DeviceError OBD_DEVICE_UNSUPPORTED if there is none. */
export async function findTransports(choice: ServiceConfig['transport']): Promise<Transports> {
  const unsupported = new Map<Transport, string>();
  const usable: Transport[] = [];
  const root = process.getuid?.() === 0;
  if (choice === 'auto' || choice === 'tcmu') {
    if (root && (await tcmuAvailable())) usable.push('tcmu');
    else unsupported.set('tcmu', root ? 'this kernel has no module "target_core_user"' : 'needs root');
  }
  if (choice === 'auto' || choice === 'fuse') {
    const reason = await fuseUnsupported();
    if (reason === undefined) usable.push('fuse');
    else unsupported.set('fuse', reason);
  }
  if (choice === 'auto' || choice === 'nbd') usable.push('nbd');
  for (const transport of ['tcmu', 'fuse', 'nbd'] as const)
    if (!usable.includes(transport) && !unsupported.has(transport))
      unsupported.set(transport, `the service's configuration says "transport": "${choice}"`);
  if (usable.length === 0)
    throw new DeviceError(
      'OBD_DEVICE_UNSUPPORTED',
      `Cannot serve devices: ${[...unsupported].map(([t, reason]) => `${t}: ${reason}`).join('; ')}`,
    );
  return { usable, unsupported };
}
