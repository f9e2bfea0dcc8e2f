import type { Command } from 'commander';
import { addServiceOptions, serviceAddress, type ServiceAccessOptions } from './service-access.js';

/** Adds `abort` to the program. */
export function addAbortCommand(program: Command): void {
  addServiceOptions(
    program
      .command('abort')
      .description('Fail the I/O of a device that waits, so that the programs that wait for it go on.')
      .argument('<device>', 'its id or path, as "obd list" shows them'),
  )
    .option('--json', 'print what was done and the device as it is then')
    .addHelpText(
      'after',
      '\nWhat waits ends with an I/O error, and so does what comes, until the device is ready again: by itself, when the\n' +
        'cause has ended.\n\nExample:\n  obd abort /dev/sda\n',
    )
    .action(async (key: string, options: ServiceAccessOptions & { readonly json?: boolean }) => {
      const { client } = await serviceAddress(options);
      const answer = await client.abort(key);
      process.stdout.write(
        options.json === true
          ? `${JSON.stringify(answer, undefined, 2)}\n`
          : `${answer.aborted} commands failed; ${answer.device.id} is ${answer.device.state}\n`,
      );
    });
}
