import { open, realpath, stat } from 'node:fs/promises';
import type { Command } from 'commander';
import { ConfigError, DeviceError, FormatError, ioError } from '../blob/index.js';
import { mountFilesystem, unmountFilesystem } from '../native/index.js';
import { deviceState, forgetMount, listMounts, NoServiceError, recordMount } from '../service/index.js';
import { addAttachOptions } from './attach.js';
import {
  addServiceOptions,
  attachBody,
  attachThrough,
  serviceAddress,
  type AttachOptions,
  type ServiceAccessOptions,
} from './service-access.js';

/** Adds `mount` to the program. */
export function addMountCommand(program: Command): void {
  addAttachOptions(
    program
      .command('mount')
      .description('Attach an image and mount it, read-only.')
      .argument('<image>', 'config.v1.json, docker://HOST/REPOSITORY:TAG or oci:DIRECTORY[:TAG]')
      .argument('<dir>', 'where to mount it; must exist'),
  )
    .option('--allow-suid', 'let set-user-ID bits and device nodes of the image work')
    .addHelpText('after', '\nExample:\n  obd mount docker://registry.example/app:1_obd /mnt\n')
    .action(mountCommand);
}

async function mountCommand(
  image: string,
  dir: string,
  options: AttachOptions & { readonly allowSuid?: boolean },
): Promise<void> {
  const directory = await existingDirectory(dir);
  const body = await attachBody(image, options);
  const address = await serviceAddress(options);
  const device = await attachThrough(address, options, body);
  const { devicePath } = device;
  let mounted = false;
  try {
    if (devicePath?.startsWith('/dev/') !== true)
      throw new DeviceError(
        'OBD_DEVICE_UNSUPPORTED',
        `Cannot mount "${image}": ${device.transport} gives no block device`,
      );
    const type = await filesystemOf(devicePath);
    const strict = options.allowSuid !== true;
    await mountFilesystem(devicePath, directory, type, {
      readOnly: true,
      nosuid: strict,
      nodev: strict,
      // The journal of an image is never replayed: that would write.
      data: type === 'ext4' ? 'noload' : '',
    });
    mounted = true;
    await recordMount(address.runDir, { directory, devicePath });
  } catch (error) {
    if (mounted) await unmountFilesystem(directory).catch(() => undefined);
    await address.client.detach(device.id).catch((second: unknown) => {
      process.stderr.write(
        `The device stays: ${second instanceof Error ? second.message : String(second)}\n`,
      );
    });
    throw ioError(error, `mount "${image}" on "${directory}"`, directory);
  }
  process.stdout.write(`${directory} (${devicePath})\n`);
}

async function existingDirectory(dir: string): Promise<string> {
  try {
    const path = await realpath(dir);
    if ((await stat(path)).isDirectory()) return path;
  } catch (error) {
    throw ioError(error, `mount on "${dir}"`, dir);
  }
  throw new ConfigError('OBD_CONFIG_VALUE', `Cannot mount on "${dir}": it is not a directory`, {
    source: dir,
  });
}

/** The file system on a device, by its magic. @throws FormatError */
async function filesystemOf(devicePath: string): Promise<'ext4' | 'erofs'> {
  const start = Buffer.alloc(4096);
  try {
    const file = await open(devicePath, 'r');
    try {
      await file.read(start, 0, start.length, 0);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw ioError(error, `read "${devicePath}"`, devicePath);
  }
  // ext4's superblock is at 1024, its magic at 56 there; erofs' begins with its magic.
  if (start.readUInt16LE(1024 + 56) === 0xef53) return 'ext4';
  if (start.readUInt32LE(1024) === 0xe0f5e1e2) return 'erofs';
  throw new FormatError(
    'OBD_FORMAT_BAD_MAGIC',
    `Cannot mount "${devicePath}": neither ext4 nor EROFS is on it`,
    {
      source: devicePath,
      offset: 1024,
      hint: 'Attach it (obd attach) and look at it with other tools',
    },
  );
}

/** Adds `umount` to the program. */
export function addUmountCommand(program: Command): void {
  addServiceOptions(
    program
      .command('umount')
      .description('Unmount a directory and detach its device.')
      .argument('<dir>', 'where "obd mount" mounted it'),
  )
    .addHelpText('after', '\nExample:\n  obd umount /mnt\n')
    .action(umountCommand);
}

async function umountCommand(dir: string, options: ServiceAccessOptions): Promise<void> {
  // The directory of a dead device cannot be looked at, but its name can be cleaned.
  const directory = await realpath(dir).catch(() => dir.replace(/(.)\/+$/, '$1'));
  const { client, runDir } = await serviceAddress(options);
  const mount = (await listMounts()).findLast((m) => m.directory === directory);
  if (mount === undefined)
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot unmount "${dir}": nothing is mounted there`, {
      source: dir,
    });
  const devices = await client.list().catch((error: unknown) => {
    if (error instanceof NoServiceError) return [];
    throw error;
  });
  const device = devices.find(({ devicePath }) => devicePath === mount.source);
  if (device === undefined && (await deviceState(mount.source)) === 'other')
    throw new DeviceError(
      'OBD_DEVICE_NOT_FOUND',
      `Cannot unmount "${dir}": ${mount.source} is no device of this service`,
      {
        hint: `Use umount(8) for mounts of others`,
      },
    );
  try {
    await unmountFilesystem(directory);
  } catch (error) {
    throw ioError(error, `unmount "${directory}"`, directory);
  }
  await forgetMount(runDir, directory);
  if (device !== undefined) await client.detach(device.id);
}
