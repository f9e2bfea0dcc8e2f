import { DeviceError } from '../../blob/index.js';
import { DEVICE_ID } from '../front-end.js';

/** HBA number of devices without a tenant; other people's snapshotters and scripts know it. */
export const DEFAULT_HBA = 999999999;
const MAX_DEV_CONFIG = 255; // the kernel's buffer

/** The kernel's names of one device (specification section A.7). */
export interface TcmuNames {
  readonly hba: number;
  /** Directory of the backstore below its HBA, and the device part of the UIO name. */
  readonly device: string;
  /** World wide name of the loopback target. */
  readonly naa: string;
  /** `dev_config` of the backstore. */
  readonly config: string;
}

/** @throws DeviceError OBD_DEVICE_UNSUPPORTED if the id or the path cannot be expressed. */
export function tcmuNames(id: string, configPath: string, tenant = -1, withDeviceId = false): TcmuNames {
  if (!DEVICE_ID.test(id))
    throw new DeviceError(
      'OBD_DEVICE_UNSUPPORTED',
      `Cannot name a device "${id}": expected 1-13 of 0-9 A-Z a-z _ -`,
    );
  const config = `overlaybd/${configPath}${withDeviceId ? `;${id}` : ''}`;
  if (/[,\n]/.test(configPath) || configPath.includes(';') || Buffer.byteLength(config) > MAX_DEV_CONFIG)
    throw new DeviceError(
      'OBD_DEVICE_UNSUPPORTED',
      `Cannot attach "${configPath}": the kernel takes paths without comma, semicolon and newline, of at most ` +
        `${MAX_DEV_CONFIG - 'overlaybd/'.length - (withDeviceId ? id.length + 1 : 0)} bytes`,
      { source: configPath },
    );
  const hba = tenant === -1 ? DEFAULT_HBA : tenant;
  return { hba, device: `dev_${id}`, naa: usualNaa(hba, id), config };
}

function usualNaa(hba: number, id: string): string {
  return `naa.${hba === DEFAULT_HBA ? 199 : 100 + (hba % 100)}${id.padStart(13, '0')}`;
}

/** The loopback target that everybody gives to a backstore of this name; undefined for a name of no such kind. */
export function naaOfBackstore(hba: number, device: string): string | undefined {
  return device.startsWith('dev_') ? usualNaa(hba, device.slice('dev_'.length)) : undefined;
}

/** A UIO name taken apart. */
export interface UioName {
  readonly hba: number;
  readonly device: string;
  /** Everything after the device: handler, `/`, the handler's own configuration. */
  readonly config: string;
  /** Path of the image config, if the handler is overlaybd. */
  readonly configPath: string | undefined;
  /** What follows `;` in the configuration. */
  readonly deviceId: string | undefined;
}

/** Takes `tcm-user/<hba>/<device>/<config>` apart; undefined if it is not that. */
export function parseUioName(name: string): UioName | undefined {
  const match = /^tcm-user\/(\d+)\/([^/]+)\/(.*)$/s.exec(name);
  if (match === null) return undefined;
  const [, hba = '', device = '', config = ''] = match;
  const ours = /^overlaybd\/([^;]+)(?:;(.*))?$/s.exec(config);
  return { hba: Number(hba), device, config, configPath: ours?.[1], deviceId: ours?.[2] };
}
