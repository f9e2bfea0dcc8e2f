import { resolve } from 'node:path';
import type { Command } from 'commander';
import { addServiceOptions, serviceAddress, type ServiceAccessOptions } from './service-access.js';

const HELP = `
The device's writable layer is sealed where it lies, as the topmost of its lowers, and the "upper" of NEW_CONFIG takes what is
written from then on; reads and writes go on meanwhile. NEW_CONFIG then takes the place of the device's configuration: its
"lowers" are the device's, and then {"file": the data file of the upper until now}.

Example:
  overlaybd-create /srv/app/data2 /srv/app/index2 64
  obd snapshot app /srv/app/next.json
`;

/** Adds `snapshot` to the program. */
export function addSnapshotCommand(program: Command): void {
  addServiceOptions(
    program
      .command('snapshot')
      .description('Seal what was written to a device in use, and go on writing to a new layer.')
      .argument('<device>', 'its id or path, as "obd list" shows them')
      .argument('<new-config>', 'configuration with the new upper; it takes the place of the one in use'),
  )
    .option('--json', 'print all about it')
    .addHelpText('after', HELP)
    .action(
      async (key: string, config: string, options: ServiceAccessOptions & { readonly json?: boolean }) => {
        const { client } = await serviceAddress(options);
        const taken = await client.snapshot(key, resolve(config));
        process.stdout.write(
          options.json === true ? `${JSON.stringify(taken, undefined, 2)}\n` : `${taken.sealed}\n`,
        );
      },
    );
}
