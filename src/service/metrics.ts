import type { DeviceInfo } from './api.js';

/** One family: name, help, type, and a value per device. */
const FAMILIES: readonly (readonly [
  name: string,
  help: string,
  type: string,
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
  ['overlaybd_device_errors_total', 'Commands that ended in an error', 'counter', (d) => d.errors],
];

const escape = (value: string): string =>
  value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');

/** The devices' numbers in Prometheus' text format, version 0.0.4. */
export function deviceMetrics(devices: readonly DeviceInfo[]): string {
  const lines = ['# HELP overlaybd_devices Devices by state', '# TYPE overlaybd_devices gauge'];
  for (const state of ['opening', 'ready', 'failed', 'detaching'])
    lines.push(`overlaybd_devices{state="${state}"} ${devices.filter((d) => d.state === state).length}`);
  const ready = devices.filter((d) => d.state === 'ready' || d.state === 'detaching');
  for (const [name, help, type, of] of FAMILIES) {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
    for (const d of ready)
      lines.push(`${name}{device="${escape(d.id)}",transport="${d.transport}"} ${of(d)}`);
  }
  return lines.join('\n') + '\n';
}
