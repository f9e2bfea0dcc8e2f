/** `obd zfile`: any file into a ZFile and back. */
import { Option, type Command } from 'commander';
import { ConfigError } from '../blob/index.js';
import { compressToFile, extractToFile, fileBytes, verifyZFile } from '../tools/index.js';
import { addCompressionOptions, compression, type CompressionFlags } from './layer-options.js';
import { interruptible, standardInput } from './stop-signal.js';
import { formatSize } from './units.js';

interface ZFileFlags extends CompressionFlags {
  readonly extract?: boolean;
  readonly verify?: boolean;
  readonly tar?: boolean;
  readonly force?: boolean;
}

const EXAMPLE = `
Examples:
  $ obd zfile --algorithm zstd disk.raw disk.zf
  $ obd zfile --extract disk.zf disk.raw
  $ obd zfile --verify disk.zf
  $ cat disk.raw | obd zfile - disk.zf
`;

/** Adds `zfile` to the program. */
export function addZFileCommand(program: Command): void {
  const command = program
    .command('zfile')
    .description('Compress a file into a ZFile, extract one, or check one.')
    .argument('<source>', 'a file; - is standard input, for compression')
    .argument('[out]', 'the new file; not with --verify')
    .option('--extract', 'unpack the ZFile')
    .addOption(new Option('--verify', 'check every block of the ZFile').conflicts('extract'))
    .option('--tar', 'wrap the ZFile in a tar');
  addCompressionOptions(command)
    .option('--force', 'replace the file if it exists')
    .addHelpText('after', EXAMPLE)
    .action(zfile);
}

async function zfile(source: string, out: string | undefined, flags: ZFileFlags): Promise<void> {
  await interruptible(async (signal) => {
    if (flags.verify === true) {
      const blocks = await verifyZFile(source, { signal });
      process.stdout.write(`${source}: all right, ${blocks} blocks\n`);
      return;
    }
    if (out === undefined) throw new ConfigError('OBD_CONFIG_VALUE', 'Say where the result goes');
    const options = {
      replace: flags.force === true,
      replaceHint: 'Use --force to replace it',
      signal,
    };
    if (flags.extract === true) {
      const size = await extractToFile(source, out, options);
      process.stdout.write(`${out}: ${formatSize(size)}\n`);
      return;
    }
    const plain = source === '-' ? standardInput(signal) : fileBytes(source);
    const { plainSize, size } = await compressToFile(plain, out, {
      ...options,
      zfile: compression(flags),
      tar: flags.tar === true,
    });
    process.stdout.write(`${out}: ${formatSize(size)} for ${formatSize(plainSize)}\n`);
  });
}
