/** `obd apply`: an OCI layer, or a whole disk, onto the writable layer of an image. */
import { dirname } from 'node:path';
import { Option, type Command } from 'commander';
import { ConfigError, isWritable, type WritableBlob } from '../blob/index.js';
import { hasUpper, ImageOpener, loadImageConfig, loadServiceConfig } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { applyLayerFile, copyDisk, openDiskImage, RawDisk, type AppliedLayer } from '../tools/index.js';
import { serviceConfigPath } from './service-config-path.js';
import { interruptible } from './stop-signal.js';
import { formatSize } from './units.js';

interface ApplyFlags {
  readonly config?: string;
  readonly raw?: string;
  readonly serviceConfig?: string;
  readonly mkfs?: boolean;
  readonly checksum?: string;
  readonly disk?: boolean;
}

const EXAMPLE = `
Example: the second layer of an image, onto what image.json has in "lowers" and "upper"
  $ obd create --size 0 writable_data writable_index
  $ obd apply --config image.json layer2.tar.gz
  $ obd commit --index writable_index writable_data layer2.obd
`;

/** Parses the digest of a plain tar. */
export function checksumValue(text: string): string {
  if (/^sha256:[0-9a-f]{64}$/.test(text)) return text;
  throw new ConfigError('OBD_CONFIG_VALUE', `The checksum is "${text}", expected sha256: and 64 hex digits`);
}

/** Adds `apply` to the program. */
export function addApplyCommand(program: Command): void {
  program
    .command('apply')
    .description("Apply an OCI layer to the ext4 of an image, into the image's writable layer.")
    .argument('<layer>', 'tar, tar.gz or tar.zst; may be a FIFO')
    .addOption(
      new Option('--config <file>', 'the image configuration (config.v1.json), with an upper').conflicts(
        'raw',
      ),
    )
    .option('--raw <file>', 'a raw disk image instead of an image configuration')
    .option('--service-config <file>', 'overlaybd.json, for remote layers')
    .option('--mkfs', 'make an empty ext4 first')
    .addOption(
      new Option('--checksum <digest>', 'sha256:... that the plain tar must have').argParser(checksumValue),
    )
    .addOption(
      new Option('--disk', 'LAYER is a disk image, raw or qcow2, that replaces everything').conflicts([
        'mkfs',
        'checksum',
      ]),
    )
    .addHelpText('after', EXAMPLE)
    .action(apply);
}

async function apply(input: string, flags: ApplyFlags): Promise<void> {
  const path = flags.config ?? flags.raw;
  if (path === undefined)
    throw new ConfigError('OBD_CONFIG_VALUE', 'Say what to apply the layer to: --config FILE or --raw FILE');
  const target: Target = { path, raw: flags.raw !== undefined, service: flags.serviceConfig };
  if (flags.disk === true) {
    const copied = await copyDiskTo(target, input);
    process.stdout.write(`${path}: ${formatSize(copied)} copied\n`);
    return;
  }
  const done = await applyTo(target, input, { mkfs: flags.mkfs === true, checksum: flags.checksum });
  process.stdout.write(
    `${path}: ${done.entries} entries, ${done.whiteouts} whiteouts, ${formatSize(done.bytes)} of content; ${formatSize(done.changed)} of the disk changed\n`,
  );
}

/** What is written to: an image's writable layer, or a raw disk image. */
export interface Target {
  /** Of the configuration, or of the raw disk image. */
  readonly path: string;
  readonly raw: boolean;
  /** overlaybd.json, if named. */
  readonly service: string | undefined;
}

/** Opens a target and runs `work` on its disk. `near` is where its files are. */
export async function onDisk<T>(
  target: Target,
  work: (disk: WritableBlob, near: string, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return interruptible(async (signal) => {
    if (target.raw) {
      const disk = await RawDisk.open(target.path);
      return work(disk, dirname(target.path), signal).finally(() => disk.close());
    }
    const log = makeLogger('warn');
    const opener = new ImageOpener(
      await loadServiceConfig(await serviceConfigPath(target.service), log),
      log,
    );
    try {
      const config = await loadImageConfig(target.path, log);
      if (!hasUpper(config))
        throw new ConfigError('OBD_CONFIG_VALUE', `Cannot write to "${target.path}": it has no upper`, {
          source: target.path,
          hint: 'Make one with "obd create", and name its files in the configuration',
        });
      const image = await opener.openConfig(config, { name: target.path, signal });
      try {
        if (!isWritable(image.blob)) throw new TypeError('Unreachable: an image with an upper is writable');
        return await work(image.blob, dirname(config.upper.data), signal);
      } finally {
        await image.close();
      }
    } finally {
      await opener.close();
    }
  });
}

/** Applies a layer to a target. */
export function applyTo(
  target: Target,
  input: string,
  options: { readonly mkfs: boolean; readonly checksum: string | undefined },
): Promise<AppliedLayer> {
  const { checksum } = options;
  return onDisk(target, (disk, workDir, signal) =>
    applyLayerFile(disk, input, {
      workDir,
      mkfs: options.mkfs,
      signal,
      warn: (message) => process.stderr.write(`Warning: ${message}\n`),
      ...(checksum === undefined ? {} : { checksum }),
    }),
  );
}

/** Copies a disk image to a target. Gives the bytes of data. */
export function copyDiskTo(target: Target, image: string): Promise<number> {
  return onDisk(target, async (disk, workDir, signal) => {
    const from = await openDiskImage(image, { workDir, signal });
    try {
      if (from.disk.size > disk.size)
        throw new ConfigError(
          'OBD_CONFIG_VALUE',
          `Cannot copy "${image}": it has ${from.disk.size} bytes, the disk ${disk.size}`,
          { source: image, hint: 'Make the writable layer with a larger virtual size' },
        );
      return await copyDisk(from.disk, disk, signal);
    } finally {
      await from.close();
    }
  });
}
