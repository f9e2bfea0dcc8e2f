/** `obd commit`: a writable or sealed layer becomes a layer file for registries. */
import { Option, type Command } from 'commander';
import { ConfigError } from '../blob/index.js';
import { commitToFile, sealInPlace } from '../tools/index.js';
import {
  addCompressionOptions,
  compression,
  userTag,
  uuidValue,
  type CompressionFlags,
} from './layer-options.js';
import { interruptible } from './stop-signal.js';
import { formatSize } from './units.js';

interface CommitFlags extends CompressionFlags {
  readonly index?: string;
  readonly seal?: boolean;
  readonly compress: boolean;
  readonly tar: boolean;
  readonly force?: boolean;
  readonly uuid?: string;
  readonly parentUuid?: string;
  readonly message?: Uint8Array;
}

const EXAMPLE = `
Examples:
  $ obd commit --index writable_index writable_data layer.tar   # a writable layer
  $ obd commit --no-tar --no-compress sealed.data layer.lsmt    # one that was sealed in place
  $ obd commit --seal --index writable_index writable_data      # seals it, where it lies
`;

/** Adds `commit` to the program. */
export function addCommitCommand(program: Command): void {
  const command = program
    .command('commit')
    .description('Write the live data of a writable or sealed layer to a layer file.')
    .argument('<data>', "the layer's data file")
    .argument('[out]', 'the new file; not with --seal')
    .option('--index <file>', 'index file of a writable layer; without it, DATA is a sealed one')
    .option('--seal', 'seal the writable layer in place instead; no new file')
    .option('--no-compress', 'leave the layer as it is')
    .option('--no-tar', 'do not wrap the layer in a tar');
  addCompressionOptions(command)
    .addOption(new Option('--uuid <uuid>', 'what the layer is called').argParser(uuidValue('--uuid')))
    .addOption(
      new Option(
        '--parent-uuid <uuid>',
        "what the layer below is called (default: the layer's own word)",
      ).argParser(uuidValue('--parent-uuid')),
    )
    .addOption(
      new Option('--message <text>', 'put a text of up to 256 bytes into the layer').argParser(userTag),
    )
    .option('--force', 'replace the file if it exists')
    .addHelpText('after', EXAMPLE)
    .action(commit);
}

async function commit(data: string, out: string | undefined, flags: CommitFlags): Promise<void> {
  if (flags.seal === true) {
    if (flags.index === undefined || out !== undefined)
      throw new ConfigError('OBD_CONFIG_VALUE', '--seal takes the data file and --index, and no other file');
    await sealInPlace({ data, index: flags.index });
    return;
  }
  if (out === undefined)
    throw new ConfigError('OBD_CONFIG_VALUE', 'Say where the layer goes', { hint: 'obd commit DATA OUT' });
  const { index } = flags;
  await interruptible(async (signal) => {
    const result = await commitToFile(
      index === undefined ? { sealed: data } : { upper: { data, index } },
      out,
      {
        packing: { ...(flags.compress ? { zfile: compression(flags) } : {}), tar: flags.tar },
        ...(flags.uuid === undefined ? {} : { uuid: flags.uuid }),
        ...(flags.parentUuid === undefined ? {} : { parentUuid: flags.parentUuid }),
        ...(flags.message === undefined ? {} : { userTag: flags.message }),
        replace: flags.force === true,
        replaceHint: 'Use --force to replace it',
        warn: (message) => process.stderr.write(`Warning: ${message}\n`),
        signal,
      },
    );
    process.stdout.write(
      `${out}: ${formatSize(result.packed.size)}, with ${formatSize(result.dataSize)} of data in ${result.entries} segments\n`,
    );
  });
}
