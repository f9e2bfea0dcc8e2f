import { Option, type Command } from 'commander';
import { DEFAULT_SERVICE_CONFIG_PATH } from '../../image/index.js';
import { virtualSize } from '../layer-options.js';
import { resizeConfig } from '../resize.js';

interface Flags {
  readonly config: string;
  readonly size: number;
  readonly service_config_path?: string;
}

/** `overlaybd-resize --config F --size GB`. */
export function resizeCommand(command: Command): Command {
  return command
    .description("Resize an image's disk and the ext4 on it.")
    .requiredOption('--config <file>', 'image configuration')
    .addOption(
      new Option('--size <GiB>', 'new size').argParser(virtualSize('--size', 1)).makeOptionMandatory(),
    )
    .option('--service_config_path <file>', `service configuration (default: ${DEFAULT_SERVICE_CONFIG_PATH})`)
    .action(async (flags: Flags) => {
      await resizeConfig(flags.config, flags.service_config_path, flags.size, false);
    });
}
