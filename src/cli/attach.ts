import { Option, type Command } from 'commander';
import { TRANSPORT_CHOICES } from '../service/index.js';
import {
  addServiceOptions,
  attachBody,
  attachThrough,
  serviceAddress,
  type AttachOptions,
} from './service-access.js';

/** Adds the options of every command that attaches. */
export function addAttachOptions(command: Command): Command {
  return addServiceOptions(command)
    .addOption(
      new Option('--transport <kind>', 'how the device reaches the kernel')
        .choices(TRANSPORT_CHOICES)
        .default('auto'),
    )
    .option('--name <id>', 'name of the device, 1 to 13 letters, digits, "_" and "-"')
    .option('--plain-http', "speak plain HTTP to the image's registry");
}

/** Adds `attach` to the program. */
export function addAttachCommand(program: Command): void {
  addAttachOptions(
    program
      .command('attach')
      .description('Make a block device of an image and print its path.')
      .argument('<image>', 'config.v1.json, docker://HOST/REPOSITORY:TAG or oci:DIRECTORY[:TAG]'),
  )
    .option('--json', 'print all about the device')
    .addHelpText(
      'after',
      '\nWithout a running service one is started that ends with its last device.\n\nExample:\n  obd attach docker://registry.example/app:1_obd\n',
    )
    .action(async (image: string, options: AttachOptions & { readonly json?: boolean }) => {
      const body = await attachBody(image, options);
      const address = await serviceAddress(options);
      const device = await attachThrough(address, options, body);
      process.stdout.write(
        options.json === true
          ? `${JSON.stringify(device, undefined, 2)}\n`
          : `${device.devicePath ?? device.id}\n`,
      );
    });
}
