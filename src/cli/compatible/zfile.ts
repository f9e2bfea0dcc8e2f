import type { Command } from 'commander';
import { ConfigError } from '../../blob/index.js';
import { compressToFile, extractToFile, fileBytes, verifyZFile } from '../../tools/index.js';
import { addCompressionOptions, compression, type CompressionFlags } from '../layer-options.js';
import { interruptible, standardInput } from '../stop-signal.js';

interface Flags extends CompressionFlags {
  readonly t?: boolean;
  readonly x?: boolean;
  readonly verify?: boolean;
  readonly f?: boolean;
}

/** `overlaybd-zfile src [dst]`. */
export function zfileCommand(command: Command): Command {
  command
    .description('Compress a file to a ZFile, or extract one.')
    .argument('<source_file>', 'source path; if it is the only one, the output for standard input')
    .argument('[target_file]', 'target path')
    .option('-t', 'wrap in a tar')
    .option('-x', 'extract')
    .option('--verify', 'check the source file, a ZFile')
    .option('-f', 'unlink an existing target first');
  return addCompressionOptions(command).action(zfile);
}

async function zfile(first: string, second: string | undefined, flags: Flags): Promise<void> {
  await interruptible(async (signal) => {
    if (flags.verify === true) {
      await verifyZFile(first, { signal });
      process.stdout.write(`${first} is a valid zfile blob.\n`);
      return;
    }
    const options = { replace: flags.f === true, replaceHint: 'Use -f to replace it', signal };
    if (flags.x === true) {
      if (second === undefined)
        throw new ConfigError('OBD_CONFIG_VALUE', 'The command line lacks the target', {
          hint: 'overlaybd-zfile -x ZFILE TARGET',
        });
      await extractToFile(first, second, options);
      return;
    }
    const plain = second === undefined ? standardInput(signal) : fileBytes(first);
    await compressToFile(plain, second ?? first, {
      ...options,
      zfile: compression(flags),
      tar: flags.t === true,
    });
  });
}
