/** `obd resize`: an image's disk and the ext4 on it become larger or smaller. */
import { Option, type Command } from 'commander';
import { ImageOpener, loadImageConfig, loadServiceConfig } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { resizeImage, type ResizeResult } from '../tools/index.js';
import { virtualSize } from './layer-options.js';
import { serviceConfigPath } from './service-config-path.js';
import { interruptible } from './stop-signal.js';
import { formatSize } from './units.js';

interface ResizeFlags {
  readonly config: string;
  readonly size: number;
  readonly serviceConfig?: string;
  readonly deviceOnly?: boolean;
}

const EXAMPLE = `
Example:
  $ obd resize --config image.json --size 128
`;

/** Adds `resize` to the program. */
export function addResizeCommand(program: Command): void {
  program
    .command('resize')
    .description("Resize an image's disk and the ext4 on it; the image needs a writable layer.")
    .requiredOption('--config <file>', 'the image configuration (config.v1.json), with an upper')
    .addOption(
      new Option('--size <GiB>', 'the new size').argParser(virtualSize('--size', 1)).makeOptionMandatory(),
    )
    .option('--service-config <file>', 'overlaybd.json, for remote layers')
    .option('--device-only', 'leave what is on the disk alone')
    .addHelpText('after', EXAMPLE)
    .action(resize);
}

async function resize(flags: ResizeFlags): Promise<void> {
  const { from, to, changed } = await resizeConfig(
    flags.config,
    flags.serviceConfig,
    flags.size,
    flags.deviceOnly === true,
  );
  process.stdout.write(
    `${flags.config}: from ${formatSize(from)} to ${formatSize(to)}, ${formatSize(changed)} of the disk changed\n`,
  );
}

/** Resizes the image of a configuration file. */
export async function resizeConfig(
  configPath: string,
  servicePath: string | undefined,
  size: number,
  deviceOnly: boolean,
): Promise<ResizeResult> {
  const log = makeLogger('warn');
  const opener = new ImageOpener(await loadServiceConfig(await serviceConfigPath(servicePath), log), log);
  try {
    const config = await loadImageConfig(configPath, log);
    return await interruptible((signal) =>
      resizeImage(opener, config, size, { source: configPath, deviceOnly, signal }),
    );
  } finally {
    await opener.close();
  }
}
