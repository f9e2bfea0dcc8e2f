import type { Command } from 'commander';
import { NoServiceError, type DeviceInfo } from '../service/index.js';
import { addServiceOptions, serviceAddress, type ServiceAccessOptions } from './service-access.js';
import { formatShare, formatSize, formatTable } from './units.js';

const HEADER = ['ID', 'DEVICE', 'TRANSPORT', 'STATE', 'SIZE', 'READ', 'FETCHED', 'SHARE', 'IMAGE', 'REASON'];

function row(device: DeviceInfo): string[] {
  return [
    device.id,
    device.devicePath ?? '-',
    device.transport,
    device.stateSince === undefined ? device.state : `${device.state} since ${device.stateSince}`,
    device.size === undefined ? '-' : formatSize(device.size),
    formatSize(device.bytesRead),
    formatSize(device.bytesFetched),
    formatShare(device.bytesFetched, device.remoteBytes),
    device.image ?? device.configPath,
    device.reason?.message ?? '',
  ];
}

/** Adds `list` to the program. */
export function addListCommand(program: Command): void {
  addServiceOptions(program.command('list').description('Show all devices.'))
    .option('--json', 'print all there is to know')
    .addHelpText(
      'after',
      '\nFETCHED is what came from the registry since the device was attached, SHARE its part of the image as stored.\n\nExample:\n  obd list --json\n',
    )
    .action(async (options: ServiceAccessOptions & { readonly json?: boolean }) => {
      const { client } = await serviceAddress(options);
      let devices: DeviceInfo[] = [];
      try {
        devices = await client.list();
      } catch (error) {
        if (!(error instanceof NoServiceError)) throw error;
        process.stderr.write(`${error.message}\n`);
      }
      process.stdout.write(
        options.json === true
          ? `${JSON.stringify(devices, undefined, 2)}\n`
          : formatTable([HEADER, ...devices.map(row)]),
      );
    });
}
