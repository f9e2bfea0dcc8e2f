import type { Command } from 'commander';
import { DEFAULT_SERVICE_CONFIG_PATH } from '../../image/index.js';
import { mergeConfig } from '../merge.js';
import { interruptible } from '../stop-signal.js';
import { addUploadOptions, uploadOf, type UploadFlags } from './upload.js';

interface Flags extends UploadFlags {
  readonly service_config_path?: string;
  readonly compress: boolean;
}

/** `overlaybd-merge image_config out`. */
export function mergeCommand(command: Command): Command {
  command
    .description('Merge the read-only layers of an image into one.')
    .argument('<image_config_path>', 'image configuration')
    .argument('<output>', 'output path')
    .option('--service_config_path <file>', `service configuration (default: ${DEFAULT_SERVICE_CONFIG_PATH})`)
    .option('--compress', 'compress to a ZFile (default)', true)
    .option('--no-compress', 'do not')
    .option('-t', 'wrap in a tar');
  return addUploadOptions(command).action(merge);
}

async function merge(config: string, out: string, flags: Flags): Promise<void> {
  await interruptible(async (signal) => {
    const beforeNaming = await uploadOf(flags, signal);
    return mergeConfig(config, flags.service_config_path, out, {
      ...(beforeNaming === undefined ? {} : { beforeNaming }),
      packing: { ...(flags.compress ? { zfile: {} } : {}), tar: flags.t === true, initialHeader: true },
      signal,
    });
  });
}
