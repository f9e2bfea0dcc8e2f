import type { Command } from 'commander';
import { addServiceOptions, serviceAddress, type ServiceAccessOptions } from './service-access.js';

/** Adds `detach` to the program. */
export function addDetachCommand(program: Command): void {
  addServiceOptions(
    program
      .command('detach')
      .description('Take a device away.')
      .argument('<device>', 'its id or path, as "obd list" shows them'),
  )
    .addHelpText('after', '\nExample:\n  obd detach /dev/loop0\n')
    .action(async (key: string, options: ServiceAccessOptions) => {
      const { client } = await serviceAddress(options);
      await client.detach(key);
    });
}
