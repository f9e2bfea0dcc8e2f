/** `obd merge`: the layers of an image become one. */
import { Option, type Command } from 'commander';
import { ImageOpener, loadImageConfig, loadServiceConfig } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { mergeToFile, type CommitFileOptions, type CommitFileResult } from '../tools/index.js';
import { addCompressionOptions, compression, uuidValue, type CompressionFlags } from './layer-options.js';
import { serviceConfigPath } from './service-config-path.js';
import { interruptible } from './stop-signal.js';
import { formatSize } from './units.js';

interface MergeFlags extends CompressionFlags {
  readonly config: string;
  readonly serviceConfig?: string;
  readonly compress: boolean;
  readonly tar: boolean;
  readonly force?: boolean;
  readonly uuid?: string;
}

const EXAMPLE = `
Example:
  $ obd merge --config image.json merged.tar
`;

/** Adds `merge` to the program. */
export function addMergeCommand(program: Command): void {
  const command = program
    .command('merge')
    .description('Merge the read-only layers of an image, local or remote, into one layer file.')
    .argument('<out>', 'the new file')
    .requiredOption('--config <file>', 'the image configuration (config.v1.json)')
    .option('--service-config <file>', 'overlaybd.json, for remote layers')
    .option('--no-compress', 'leave the layer as it is')
    .option('--no-tar', 'do not wrap the layer in a tar');
  addCompressionOptions(command)
    .addOption(new Option('--uuid <uuid>', 'what the layer is called').argParser(uuidValue('--uuid')))
    .option('--force', 'replace the file if it exists')
    .addHelpText('after', EXAMPLE)
    .action(merge);
}

async function merge(out: string, flags: MergeFlags): Promise<void> {
  await interruptible(async (signal) => {
    const result = await mergeConfig(flags.config, flags.serviceConfig, out, {
      packing: { ...(flags.compress ? { zfile: compression(flags) } : {}), tar: flags.tar },
      ...(flags.uuid === undefined ? {} : { uuid: flags.uuid }),
      replace: flags.force === true,
      replaceHint: 'Use --force to replace it',
      signal,
    });
    process.stdout.write(
      `${out}: ${formatSize(result.packed.size)}, with ${formatSize(result.dataSize)} of data in ${result.entries} segments\n`,
    );
  });
}

/** Merges the image of a configuration file. */
export async function mergeConfig(
  configPath: string,
  servicePath: string | undefined,
  out: string,
  options: CommitFileOptions,
): Promise<CommitFileResult> {
  const log = makeLogger('warn');
  const opener = new ImageOpener(await loadServiceConfig(await serviceConfigPath(servicePath), log), log);
  try {
    const config = await loadImageConfig(configPath, log);
    return await mergeToFile(opener, config, out, { ...options, source: configPath });
  } finally {
    await opener.close();
  }
}
