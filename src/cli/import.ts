/** `obd import`: a disk image becomes a layer. */
import { tmpdir } from 'node:os';
import { Option, type Command } from 'commander';
import { importDisk } from '../tools/index.js';
import {
  addCompressionOptions,
  compression,
  userTag,
  uuidValue,
  type CompressionFlags,
} from './layer-options.js';
import { interruptible } from './stop-signal.js';
import { formatSize } from './units.js';

interface ImportFlags extends CompressionFlags {
  readonly format?: 'raw' | 'qcow2';
  readonly compress: boolean;
  readonly tar: boolean;
  readonly uuid?: string;
  readonly message?: Uint8Array;
  readonly workdir: string;
  readonly force?: boolean;
}

const EXAMPLE = `
Example: a virtual machine's disk, served from a layer
  $ obd import debian.qcow2 debian.obd
  $ echo '{"lowers": [{"file": "'$PWD'/debian.obd"}]}' > image.json
  $ obd nbd --config image.json /tmp/debian.sock
`;

/** Adds `import` to the program. */
export function addImportCommand(program: Command): void {
  const command = program
    .command('import')
    .description('Make a layer file of a disk image; blocks of zeroes are left out.')
    .argument('<disk>', 'a raw or qcow2 disk image (qcow2 needs qemu-img)')
    .argument('<out>', 'the new file')
    .addOption(
      new Option('--format <name>', 'what the disk is (default: as its first bytes say)').choices([
        'raw',
        'qcow2',
      ]),
    )
    .option('--no-compress', 'leave the layer as it is')
    .option('--no-tar', 'do not wrap the layer in a tar');
  addCompressionOptions(command)
    .addOption(new Option('--uuid <uuid>', 'what the layer is called').argParser(uuidValue('--uuid')))
    .addOption(
      new Option('--message <text>', 'put a text of up to 256 bytes into the layer').argParser(userTag),
    )
    .option('--workdir <dir>', 'where a qcow2 is unpacked to', process.env['TMPDIR'] ?? tmpdir())
    .option('--force', 'replace the file if it exists')
    .addHelpText('after', EXAMPLE)
    .action(importCommand);
}

async function importCommand(disk: string, out: string, flags: ImportFlags): Promise<void> {
  const result = await interruptible((signal) =>
    importDisk(disk, out, {
      packing: { ...(flags.compress ? { zfile: compression(flags) } : {}), tar: flags.tar },
      workDir: flags.workdir,
      ...(flags.format === undefined ? {} : { format: flags.format }),
      ...(flags.uuid === undefined ? {} : { uuid: flags.uuid }),
      ...(flags.message === undefined ? {} : { userTag: flags.message }),
      replace: flags.force === true,
      replaceHint: 'Use --force to replace it',
      signal,
    }),
  );
  process.stdout.write(
    `${out}: ${formatSize(result.packed.size)}, with ${formatSize(result.dataSize)} of data in ${result.entries} segments\n`,
  );
}
