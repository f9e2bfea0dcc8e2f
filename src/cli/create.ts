/** `obd create`: a new writable layer. */
import { Option, type Command } from 'commander';
import { ConfigError } from '../blob/index.js';
import { createLayer, createRawDisk } from '../tools/index.js';
import { uuidValue, virtualSize } from './layer-options.js';

interface CreateFlags {
  readonly size: number;
  readonly sparse?: boolean;
  readonly mkfs?: boolean;
  readonly raw?: boolean;
  readonly parentUuid?: string;
}

const EXAMPLE = `
Example: a disk of 64 GiB with an empty ext4, ready to be the "upper" of an image configuration
  $ obd create --size 64 --mkfs writable_data writable_index
`;

/** Adds `create` to the program. */
export function addCreateCommand(program: Command): void {
  program
    .command('create')
    .description('Make a new writable layer, or a raw disk; nothing that exists is touched.')
    .argument('<data>', 'file of the data')
    .argument('[index]', 'file of the index; not for --raw')
    .addOption(
      new Option('--size <GiB>', 'virtual size; 0 takes that of the layers below')
        .argParser(virtualSize('--size', 0))
        .makeOptionMandatory(),
    )
    .option('--sparse', 'blocks at fixed places of one sparse file, rather than a log')
    .option('--mkfs', 'put an empty ext4 file system into it')
    .addOption(new Option('--raw', 'a plain disk image, not a layer').conflicts(['sparse', 'parentUuid']))
    .addOption(
      new Option('--parent-uuid <uuid>', 'what the layer below is called').argParser(
        uuidValue('--parent-uuid'),
      ),
    )
    .addHelpText('after', EXAMPLE)
    .action(create);
}

async function create(data: string, index: string | undefined, flags: CreateFlags): Promise<void> {
  const mkfs = flags.mkfs === true;
  if (flags.raw === true) {
    await createRawDisk(data, { virtualSize: flags.size, mkfs });
    return;
  }
  if (index === undefined)
    throw new ConfigError('OBD_CONFIG_VALUE', 'A writable layer needs the name of its index file', {
      hint: 'obd create --size GIB DATA INDEX',
    });
  await createLayer({
    data,
    index,
    virtualSize: flags.size,
    mkfs,
    sparse: flags.sparse === true,
    parentUuid: flags.parentUuid ?? null,
  });
}
