import { Option, type Command } from 'commander';
import { ConfigError } from '../../blob/index.js';
import { commitToFile, sealInPlace, type CommitInput } from '../../tools/index.js';
import {
  addCompressionOptions,
  compression,
  userTag,
  uuidValue,
  type CompressionFlags,
} from '../layer-options.js';
import { interruptible } from '../stop-signal.js';
import { addTurboOption, refuseTurbo, type TurboFlags } from './options.js';
import { addUploadOptions, uploadOf, type UploadFlags } from './upload.js';

interface Flags extends CompressionFlags, TurboFlags, UploadFlags {
  readonly m?: Uint8Array;
  readonly uuid?: string;
  readonly parentUuid?: string;
  readonly z?: boolean;
  readonly f?: boolean;
  readonly seal?: boolean;
  readonly commit_sealed?: boolean;
}

/** `overlaybd-commit data [index] [out]`. */
export function commitCommand(command: Command): Command {
  command
    .description('Commit a writable layer, or one that was sealed in place, to a layer file.')
    .argument('<data_file>', 'data file path')
    .argument('[index_file]', 'index file path; with --commit_sealed, the output')
    .argument('[commit_file]', 'output path')
    .addOption(new Option('-m <message>', 'message put into the layer').argParser(userTag))
    .addOption(new Option('--uuid <uuid>', 'uuid of the layer').argParser(uuidValue('--uuid')))
    .addOption(
      new Option('-p, --parent-uuid <uuid>', 'uuid of the layer below').argParser(uuidValue('--parent-uuid')),
    )
    .option('-z', 'compress to a ZFile')
    .option('-t', 'wrap in a tar')
    .option('-f', 'unlink an existing output first')
    .option('--seal', 'seal the data file in place; no output')
    .option('--commit_sealed', 'the data file is a sealed layer')
    .addOption(new Option('--compress_threads <n>', 'has no effect'));
  addCompressionOptions(command);
  return addUploadOptions(addTurboOption(command)).action(commit);
}

async function commit(
  data: string,
  second: string | undefined,
  third: string | undefined,
  flags: Flags,
): Promise<void> {
  refuseTurbo(flags);
  if (flags.seal === true) {
    if (second === undefined) throw missing('index_file', '--seal DATA INDEX');
    await sealInPlace({ data, index: second });
    return;
  }
  const sealed = flags.commit_sealed === true;
  const out = sealed ? second : third;
  if (out === undefined)
    throw missing('the output', sealed ? '--commit_sealed SEALED OUT' : 'DATA INDEX OUT');
  const input: CommitInput = sealed ? { sealed: data } : { upper: { data, index: second ?? '' } };
  await interruptible(async (signal) => {
    const beforeNaming = await uploadOf(flags, signal);
    return commitToFile(input, out, {
      ...(beforeNaming === undefined ? {} : { beforeNaming }),
      packing: { ...(flags.z === true ? { zfile: compression(flags) } : {}), tar: flags.t === true },
      ...(flags.uuid === undefined ? {} : { uuid: flags.uuid }),
      ...(flags.parentUuid === undefined ? {} : { parentUuid: flags.parentUuid }),
      ...(flags.m === undefined ? {} : { userTag: flags.m }),
      replace: flags.f === true,
      replaceHint: 'Use -f to replace it',
      warn: (message) => process.stderr.write(`Warning: ${message}\n`),
      signal,
    });
  });
}

function missing(what: string, usage: string): ConfigError {
  return new ConfigError('OBD_CONFIG_VALUE', `The command line lacks ${what}`, {
    hint: `overlaybd-commit ${usage}`,
  });
}
