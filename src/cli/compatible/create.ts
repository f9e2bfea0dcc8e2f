import { Option, type Command } from 'commander';
import { createLayer, createRawDisk } from '../../tools/index.js';
import { uuidValue, virtualSize } from '../layer-options.js';
import { addTurboOption, refuseTurbo, type TurboFlags } from './options.js';

interface Flags extends TurboFlags {
  readonly u?: string;
  readonly s?: boolean;
  readonly raw?: boolean;
  readonly mkfs?: boolean;
}

/** `overlaybd-create data index vsize_GB`. */
export function createCommand(command: Command): Command {
  command
    .description('Create the files of a writable layer.')
    .argument('<data_file>', 'data file path')
    .argument('<index_file>', 'index file path')
    .argument('<vsize>', 'virtual size in GiB', virtualSize('vsize', 0))
    .addOption(new Option('-u <uuid>', 'parent uuid').argParser(uuidValue('-u')))
    .option('-s', 'sparse data file')
    .option('--raw', 'a plain disk image instead of a layer')
    .option('--mkfs', 'make an ext4 file system in it');
  return addTurboOption(command).action(create);
}

async function create(data: string, index: string, size: number, flags: Flags): Promise<void> {
  refuseTurbo(flags);
  const mkfs = flags.mkfs === true;
  if (flags.raw === true) await createRawDisk(data, { virtualSize: size, mkfs });
  else
    await createLayer({
      data,
      index,
      virtualSize: size,
      mkfs,
      sparse: flags.s === true,
      parentUuid: flags.u ?? null,
    });
  process.stdout.write('overlaybd-create has created files SUCCESSFULLY\n');
}
