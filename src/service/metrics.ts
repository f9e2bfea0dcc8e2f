import type { FamilyType, MetricsText } from '../metrics/index.js';
import { DEVICE_STATES, type DeviceInfo } from './api.js';

/** One family: name, help, type, and a value per device. */
const FAMILIES: readonly (readonly [
  name: string,
  help: string,
  type: FamilyType,
  of: (d: DeviceInfo) => number,
])[] = [
  ['overlaybd_device_reads_total', 'Reads of the device', 'counter', (d) => d.reads],
  ['overlaybd_device_read_bytes_total', 'Bytes read from the device', 'counter', (d) => d.bytesRead],
  [
    'overlaybd_device_fetched_bytes_total',
    'Bytes fetched from the registry',
    'counter',
    (d) => d.bytesFetched,
  ],
  [
    'overlaybd_device_remote_bytes',
    "Stored bytes of the image's remote layers",
    'gauge',
    (d) => d.remoteBytes,
  ],
  ['overlaybd_device_present_bytes', 'Those that are on local disk', 'gauge', (d) => d.presentBytes],
  [
    'overlaybd_device_download_bytes',
    'Bytes that the background download brought; 0 without one',
    'gauge',
    (d) => d.download?.bytes ?? 0,
  ],
  [
    'overlaybd_device_download_running',
    '1 while layers are downloaded in the background',
    'gauge',
    (d) => (d.download?.state === 'running' ? 1 : 0),
  ],
  ['overlaybd_device_errors_total', 'Commands that ended in an error', 'counter', (d) => d.errors],
  ['overlaybd_device_waiting', 'Commands that failed and are repeated', 'gauge', (d) => d.waiting ?? 0],
  [
    'overlaybd_device_health',
    '0 ready, 1 degraded (I/O is repeated), 2 blocked (I/O fails or is held)',
    'gauge',
    (d) => Math.max(0, ['ready', 'degraded', 'blocked'].indexOf(d.state)),
  ],
  [
    'overlaybd_device_unhealthy_since_seconds',
    'Unix time since when it is degraded or blocked; 0 if it is not',
    'gauge',
    (d) => (d.stateSince === undefined ? 0 : Date.parse(d.stateSince) / 1000),
  ],
];

/** The devices' own numbers. */
export function deviceMetrics(out: MetricsText, devices: readonly DeviceInfo[]): void {
  out.family('overlaybd_devices', 'gauge', 'Devices by state');
  for (const state of DEVICE_STATES) out.sample(devices.filter((d) => d.state === state).length, { state });
  const attached = devices.filter((d) => d.state !== 'opening' && d.state !== 'failed');
  for (const [name, help, type, of] of FAMILIES) {
    out.family(name, type, help);
    for (const d of attached) out.sample(of(d), { device: d.id, transport: d.transport });
  }
}
