/** `obd convert SRC DST`, also known as `obdconv`: an OCI image into an overlaybd image. */
import { tmpdir } from 'node:os';
import { Command, Option } from 'commander';
import { ConfigError } from '../blob/index.js';
import { Codec } from '../native/index.js';
import { convertImage, type ConvertedImage } from '../convert/index.js';
import { openImageSource, openImageTarget, parsePlatform } from '../oci/index.js';
import { addContainerdOptions, containerdImages, type ContainerdOptions } from './containerd-options.js';
import { runCommand } from './program.js';
import { byteProgress } from './progress.js';
import { addRegistryOptions, openRegistryClient, type RegistryOptions } from './registry-access.js';
import { formatDuration, formatShare, formatSize, formatTable } from './units.js';

interface ConvertCommandOptions extends RegistryOptions, ContainerdOptions {
  readonly vsize: number;
  readonly algorithm: 'lz4' | 'zstd';
  readonly bs: string;
  readonly oci?: boolean;
  readonly docker?: boolean;
  readonly platform?: string;
  readonly workdir: string;
  readonly force?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** Largest virtual disk: work files of 16 TiB are more than most file systems can hold, even where they are empty. */
const MAX_VSIZE_GIB = 8 * 1024;

function wholeNumber(what: string, least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < least || value > most)
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `${what} is "${text}", expected a whole number from ${least} to ${most}`,
      );
    return value;
  };
}

function configure(command: Command): Command {
  command
    .description('Convert an OCI or Docker image into an overlaybd image.')
    .argument(
      '<source>',
      'docker://HOST/REPOSITORY:TAG, oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REFERENCE], containerd:NAME or a bare reference',
    )
    .argument('<target>', 'the same forms; its tag moves when everything is there')
    .addOption(
      new Option('--vsize <GiB>', 'size of the virtual disk')
        .default(64)
        .argParser(wholeNumber('--vsize', 1, MAX_VSIZE_GIB)),
    )
    .addOption(
      new Option('--algorithm <name>', 'compression of the layers').choices(['lz4', 'zstd']).default('lz4'),
    )
    .addOption(
      new Option('--bs <KiB>', 'compression block').choices(['4', '8', '16', '32', '64']).default('4'),
    )
    .option('--platform <os/arch>', "which image of an index (default: Linux on this machine's architecture)")
    .addOption(new Option('--oci', "write OCI media types (default: the source's)").conflicts('docker'))
    .option('--docker', "write Docker media types (default: the source's)")
    .option('--workdir <dir>', 'where work files go', process.env['TMPDIR'] ?? tmpdir())
    .option('-f, --force', 'an archive may take the place of a file')
    .option('--json', 'print the result as JSON')
    .option('--quiet', 'no progress');
  return addContainerdOptions(addRegistryOptions(command)).action(convert);
}

/** Adds `convert` to the program. */
export function addConvertCommand(program: Command): void {
  configure(program.command('convert'));
}

/** Entry point of bin/obdconv. */
export async function main(argv: readonly string[]): Promise<void> {
  await runCommand(configure(new Command('obdconv').showHelpAfterError('(see --help)')), argv);
}

async function convert(
  sourceName: string,
  targetName: string,
  options: ConvertCommandOptions,
): Promise<void> {
  const platform = options.platform === undefined ? undefined : parsePlatform(options.platform);
  const client = openRegistryClient(options, [sourceName, targetName]);
  const controller = new AbortController();
  let stopped: NodeJS.Signals | undefined;
  const stop = (signal: NodeJS.Signals): void => {
    // The second one does not wait for anything; work files have no names.
    if (stopped !== undefined) process.exit(signal === 'SIGINT' ? 130 : 143);
    stopped = signal;
    controller.abort(new Error(`stopped by ${signal}`));
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  const progress = byteProgress('convert', options.quiet === true || options.json === true);
  const started = Date.now();
  const source = openImageSource(sourceName, client, containerdImages(options));
  const target = openImageTarget(targetName, client, {
    ...containerdImages(options),
    replace: options.force === true,
  });
  try {
    const mediaTypes = options.oci === true ? 'oci' : options.docker === true ? 'docker' : undefined;
    const result = await convertImage(source, target, {
      workDir: options.workdir,
      virtualSize: options.vsize * 2 ** 30,
      zfile: {
        codec: options.algorithm === 'zstd' ? Codec.ZSTD : Codec.LZ4,
        blockSize: Number(options.bs) * 1024,
      },
      signal: controller.signal,
      warn: (message) => process.stderr.write(`Warning: ${message}\n`),
      onProgress: (done, total) => {
        progress.update(done, total);
      },
      ...(mediaTypes !== undefined && { mediaTypes }),
      ...(platform !== undefined && { platform }),
    });
    progress.stop();
    const milliseconds = Date.now() - started;
    process.stdout.write(
      options.json === true
        ? `${JSON.stringify({ target: target.name, milliseconds, ...result }, undefined, 2)}\n`
        : summary(target.name, result, milliseconds),
    );
  } catch (error) {
    if (stopped === undefined) throw error;
    process.stderr.write(`Stopped by ${stopped}; "${targetName}" is as it was\n`);
    process.exitCode = stopped === 'SIGINT' ? 130 : 143;
  } finally {
    progress.stop();
    process.off('SIGINT', stop).off('SIGTERM', stop);
    await target.close();
    await source.close();
    await client.close();
  }
}

function summary(target: string, result: ConvertedImage, milliseconds: number): string {
  const rows = result.layers.map((layer) => [
    String(layer.index),
    formatSize(layer.source.size),
    formatSize(layer.descriptor.size),
    String(layer.counts.entries),
    layer.outcome,
    layer.descriptor.digest.slice(0, 19),
  ]);
  return (
    formatTable([['LAYER', 'BEFORE', 'AFTER', 'ENTRIES', 'TARGET', 'DIGEST'], ...rows]) +
    `${target}@${result.descriptor.digest}\n` +
    `${formatSize(result.sourceSize)} became ${formatSize(result.size)} (${formatShare(result.size, result.sourceSize)}) in ${formatDuration(milliseconds)}\n`
  );
}
