/** `obd convert SRC DST`, also known as `obdconv`: an OCI image into an overlaybd image. */
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { ConfigError } from '../blob/index.js';
import { convertImage, LayerCache, planConversion, type ConvertOptions } from '../convert/index.js';
import { Codec } from '../native/index.js';
import {
  openImageSource,
  openImageTarget,
  parseImageName,
  parsePlatform,
  type ImageSource,
  type ImageTarget,
} from '../oci/index.js';
import { parseReference } from '../registryblob/index.js';
import { addContainerdOptions, containerdImages, type ContainerdOptions } from './containerd-options.js';
import { convertSummary, errorEvent, eventPrinter, planSummary, printEvent } from './convert-report.js';
import { runCommand } from './program.js';
import { byteProgress } from './progress.js';
import { addRegistryOptions, openRegistryClient, type RegistryOptions } from './registry-access.js';

interface ConvertCommandOptions extends RegistryOptions, ContainerdOptions {
  readonly vsize: number | 'auto';
  readonly fstype: string;
  readonly algorithm: 'lz4' | 'zstd';
  readonly bs: string;
  readonly oci?: boolean;
  readonly docker?: boolean;
  readonly platform?: string;
  readonly allPlatforms?: boolean;
  readonly referrer?: boolean;
  readonly plan?: boolean;
  readonly workdir: string;
  /** False for --no-cache. */
  readonly cache: boolean;
  readonly cacheDir?: string;
  readonly force?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

const GIB = 2 ** 30;
/** Largest virtual disk: work files of 16 TiB are more than most file systems can hold, even where they are empty. */
const MAX_VSIZE_GIB = 8 * 1024;

function parseVsize(text: string): number | 'auto' {
  if (text === 'auto') return text;
  const value = Number(text);
  if (!/^[0-9]+$/.test(text) || value < 1 || value > MAX_VSIZE_GIB)
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `--vsize is "${text}", expected auto or a whole number of GiB from 1 to ${MAX_VSIZE_GIB}`,
    );
  return value;
}

function parseFsType(text: string): string {
  if (text !== 'ext4')
    throw new ConfigError('OBD_CONFIG_VALUE', `--fstype is "${text}", expected ext4`, {
      hint: 'ext4 is what can be written without root, mounts or other programs; images of other file systems are served all the same',
    });
  return text;
}

const EXAMPLES = `
Examples:
  obdconv docker://registry.example/app:1 docker://registry.example/app:1_obd
  obdconv docker://debian:12 oci:./out:debian --all-platforms
  obdconv docker-archive:saved.tar docker://registry.example/app:1_obd --plan`;

function configure(command: Command): Command {
  command
    .description('Convert an OCI or Docker image into an overlaybd image.')
    .argument(
      '<source>',
      'docker://HOST/REPOSITORY:TAG, oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REFERENCE], containerd:NAME or a bare reference',
    )
    .argument('<target>', 'the same forms; its tag moves when everything is there')
    .addOption(
      new Option('--vsize <GiB>', 'size of the virtual disk; auto is 64, and more for images that need it')
        .default('auto')
        .argParser(parseVsize),
    )
    .addOption(new Option('--fstype <name>', 'file system').default('ext4').argParser(parseFsType))
    .addOption(
      new Option('--algorithm <name>', 'compression of the layers').choices(['lz4', 'zstd']).default('lz4'),
    )
    .addOption(
      new Option('--bs <KiB>', 'compression block').choices(['4', '8', '16', '32', '64']).default('4'),
    )
    .option(
      '--platform <os/arch>',
      "which image of an index (default: Linux on this machine's architecture); several with commas make an index",
    )
    .addOption(
      new Option('--all-platforms', 'convert every image of an index, and make an index').conflicts(
        'platform',
      ),
    )
    .addOption(new Option('--oci', "write OCI media types (default: the source's)").conflicts('docker'))
    .option('--docker', "write Docker media types (default: the source's)")
    .addOption(
      new Option(
        '--referrer',
        'name the source as subject, so that registries list the result as its referrer; a target without a tag gets none',
      ).conflicts('docker'),
    )
    .option('--plan', 'say what would be done, and do nothing')
    .option('--workdir <dir>', 'where work files go', process.env['TMPDIR'] ?? tmpdir())
    .option('--cache-dir <dir>', `where to note what was converted (default: "${defaultCacheDir()}")`)
    .option('--no-cache', 'convert every layer, also those that the target has')
    .option('-f, --force', 'an archive may take the place of a file')
    .option('--json', 'print events as lines of JSON')
    .option('--quiet', 'no progress')
    .addHelpText('after', EXAMPLES);
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

function defaultCacheDir(): string {
  const base = process.env['XDG_CACHE_HOME'] ?? '';
  return join(base === '' ? join(homedir(), '.cache') : base, 'overlaybd', 'convert');
}

/** A cache that cannot be opened costs time, nothing else. */
function openCache(options: ConvertCommandOptions): LayerCache | undefined {
  if (!options.cache) return undefined;
  const directory = options.cacheDir ?? defaultCacheDir();
  try {
    return LayerCache.open(directory);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    process.stderr.write(`Warning: what was converted before is not known: "${directory}": ${reason}\n`);
    return undefined;
  }
}

/** With --referrer, a target is found by its subject: a tag is set only where one is written. */
function wantsTag(target: string, options: ConvertCommandOptions): boolean {
  const name = parseImageName(target);
  if (options.referrer !== true || name.kind !== 'docker') return true;
  const { tag, digest } = parseReference(name.reference);
  return digest === undefined && (tag !== 'latest' || name.reference.endsWith(':latest'));
}

function platformOf(options: ConvertCommandOptions): ConvertOptions['platform'] {
  if (options.allPlatforms === true) return 'all';
  if (options.platform === undefined) return undefined;
  const platforms = options.platform.split(',').map(parsePlatform);
  return platforms.length === 1 ? platforms[0] : platforms;
}

async function convert(
  sourceName: string,
  targetName: string,
  options: ConvertCommandOptions,
): Promise<void> {
  const platform = platformOf(options);
  const client = openRegistryClient(options, [sourceName, targetName]);
  const source = openImageSource(sourceName, client, {
    ...containerdImages(options),
    workDir: options.workdir,
  });
  const target = openImageTarget(targetName, client, {
    ...containerdImages(options),
    replace: options.force === true,
  });
  const cache = openCache(options);
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
  const mediaTypes = options.oci === true ? 'oci' : options.docker === true ? 'docker' : undefined;
  try {
    await run(source, target, options, {
      workDir: options.workdir,
      growVirtualSize: options.vsize === 'auto',
      ...(options.vsize !== 'auto' && { virtualSize: options.vsize * GIB }),
      zfile: {
        codec: options.algorithm === 'zstd' ? Codec.ZSTD : Codec.LZ4,
        blockSize: Number(options.bs) * 1024,
      },
      referrer: options.referrer === true,
      tag: wantsTag(targetName, options),
      signal: controller.signal,
      warn: (message) => {
        process.stderr.write(`Warning: ${message}\n`);
        if (options.json === true) printEvent({ event: 'warning', ...{ message } });
      },
      onProgress: (done, total) => {
        progress.update(done, total);
      },
      ...(options.json === true && { onEvent: eventPrinter() }),
      ...(mediaTypes !== undefined && { mediaTypes }),
      ...(platform !== undefined && { platform }),
      ...(cache !== undefined && { cache }),
    }).finally(() => {
      progress.stop();
    });
  } catch (error) {
    if (options.json === true) printEvent(errorEvent(error));
    if (stopped === undefined) throw error;
    process.stderr.write(`Stopped by ${stopped}; "${targetName}" is as it was\n`);
    process.exitCode = stopped === 'SIGINT' ? 130 : 143;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    await target.close();
    await source.close();
    await client.close();
  }
}

async function run(
  source: ImageSource,
  target: ImageTarget,
  { plan, json }: ConvertCommandOptions,
  options: ConvertOptions,
): Promise<void> {
  if (plan === true) {
    const images = await planConversion(source, target, options);
    if (json === true) printEvent({ event: 'plan', ...{ source: source.name, target: target.name, images } });
    else process.stdout.write(planSummary(target.name, images));
    return;
  }
  const started = Date.now();
  const result = await convertImage(source, target, options);
  const milliseconds = Date.now() - started;
  // Without a tag of its own it is not what "latest" leads to.
  const name = options.tag === false ? target.name.replace(/:latest$/, '') : target.name;
  if (json === true)
    printEvent({ event: 'done', ...{ source: source.name, target: name, milliseconds, result } });
  else process.stdout.write(convertSummary(name, result, milliseconds));
}
