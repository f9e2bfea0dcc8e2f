import { Option, type Command } from 'commander';
import { DEFAULT_SERVICE_CONFIG_PATH } from '../../image/index.js';
import { applyTo, checksumValue, copyDiskTo, type Target } from '../apply.js';
import { unsupported } from './options.js';

interface Flags {
  readonly raw?: boolean;
  readonly mkfs?: boolean;
  readonly from_qcow2?: boolean;
  readonly extractRootfs: boolean;
  readonly service_config_path?: string;
  readonly gz_index_path?: string;
  readonly checksum?: string;
}

/** `overlaybd-apply input image_config`. */
export function applyCommand(command: Command): Command {
  return command
    .description("Apply an OCI layer to an image's writable layer.")
    .argument('<input_path>', 'tar, tar.gz, tar.zst or a FIFO')
    .argument('<image_config_path>', 'image configuration; with --raw, a raw disk image')
    .option('--raw', 'apply to a raw disk image')
    .option('--mkfs', 'make an ext4 file system first')
    .option('--from_qcow2', 'the input is a qcow2 disk that is copied')
    .option('--extract-rootfs', 'extract the layer (default)', true)
    .addOption(new Option('--no-extract-rootfs').hideHelp())
    .option('--service_config_path <file>', `service configuration (default: ${DEFAULT_SERVICE_CONFIG_PATH})`)
    .addOption(new Option('--gz_index_path <file>').hideHelp())
    .addOption(
      new Option('--checksum <digest>', 'sha256:... of the uncompressed layer').argParser(checksumValue),
    )
    .action(apply);
}

async function apply(input: string, path: string, flags: Flags): Promise<void> {
  if (!flags.extractRootfs) throw unsupported('Applying without extracting (--no-extract-rootfs)');
  if (flags.gz_index_path !== undefined && flags.gz_index_path !== '')
    throw unsupported('Writing a gzip index (--gz_index_path)', 'It belongs to TurboOCI layers');
  const target: Target = { path, raw: flags.raw === true, service: flags.service_config_path };
  if (flags.from_qcow2 === true) await copyDiskTo(target, input);
  else await applyTo(target, input, { mkfs: flags.mkfs === true, checksum: flags.checksum });
  process.stdout.write('overlaybd-apply done\n');
}
