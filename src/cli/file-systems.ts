/** File systems on the snapshotter's devices: which one it is, how it is made, mounted and repaired. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { ConfigError, DeviceError, ioError, isSystemError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { mountFilesystem } from '../native/index.js';
import type { FileSystemSpec } from '../snapshotter/index.js';
import type { ProgramResult } from '../tools/index.js';

/** Flags of mount(8) that are no option of the file system, and that are given otherwise. */
const FLAGS = new Set(['ro', 'rw', 'defaults', '']);
/** Said to mkfs and mount(2) if a label says nothing, as in the reference. */
const DEFAULTS: Readonly<Record<string, { readonly make: string; readonly mount: string }>> = {
  ext4: { make: '-O ^has_journal,sparse_super,flex_bg -G 1 -E discard -F', mount: 'discard' },
  xfs: { make: '-f -l size=4m -m crc=0', mount: 'nouuid,discard' },
  f2fs: { make: '-S -w 4096', mount: '' },
  ntfs: { make: '-F -f', mount: '' },
};
/** Exit status of e2fsck that says: all is well now. */
const REPAIRED = new Set([0, 1]);

/** The tools are loaded only when a program is run. */
async function run(program: string, args: readonly string[], pkg: string): Promise<ProgramResult> {
  return (await import('../tools/index.js')).runProgram(program, args, { pkg });
}

interface Found {
  readonly type: string | undefined;
  /** ext4 that was not unmounted, or has errors. */
  readonly dirty: boolean;
}

/** What a device holds, by its magic. Waits for the device's first blocks. */
export async function findFileSystem(devicePath: string): Promise<Found> {
  const start = Buffer.alloc(4096);
  const file = await open(devicePath, 'r');
  try {
    await file.read(start, 0, start.length, 0);
  } finally {
    await file.close();
  }
  return fileSystemIn(start);
}

/** What the first 4096 bytes of a device say. */
export function fileSystemIn(start: Buffer): Found {
  const found = (type: string | undefined, dirty = false): Found => ({ type, dirty });
  if (start.readUInt32LE(1024) === 0xe0f5e1e2) return found('erofs');
  // s_state: 1 is clean, 2 has errors.
  if (start.readUInt16LE(1024 + 56) === 0xef53) return found('ext4', start.readUInt16LE(1024 + 58) !== 1);
  if (start.toString('latin1', 0, 4) === 'XFSB') return found('xfs');
  if (start.readUInt32LE(1024) === 0xf2f52010) return found('f2fs');
  return found(start.toString('latin1', 3, 7) === 'NTFS' ? 'ntfs' : undefined);
}

/** Makes an empty file system. @throws ConfigError if there is no such mkfs; DeviceError with what it says */
export async function makeFileSystem(
  devicePath: string,
  { type, makeOptions }: FileSystemSpec,
): Promise<void> {
  const options = (makeOptions || (DEFAULTS[type]?.make ?? '')).split(/\s+/).filter((word) => word !== '');
  const { status, stdout, stderr } = await run(
    `mkfs.${type}`,
    [...options, devicePath],
    type === 'ext4' ? 'e2fsprogs' : `${type}progs`,
  );
  if (status === 0) return;
  throw new DeviceError(
    'OBD_DEVICE_KERNEL',
    `Cannot make a file system on "${devicePath}": mkfs.${type} ended with status ${status}: ${(stdout + stderr).trim()}`,
    { source: devicePath },
  );
}

/** Mounts a device. A writable ext4 that is not clean is checked and repaired before. @throws a system error, DeviceError */
export async function mountDevice(
  devicePath: string,
  directory: string,
  spec: FileSystemSpec,
  { writable, log }: { readonly writable: boolean; readonly log: Logger },
): Promise<void> {
  const { type: known, dirty } = await findFileSystem(devicePath);
  const type = known ?? spec.type;
  const wanted = spec.mountOptions || (writable ? (DEFAULTS[type]?.mount ?? '') : '');
  const options = wanted.split(',').filter((option) => !FLAGS.has(option));
  if (writable) {
    if (type === 'erofs')
      throw new DeviceError(
        'OBD_DEVICE_UNSUPPORTED',
        `Cannot write to "${devicePath}": its file system is EROFS, which is read-only`,
        { source: devicePath, hint: 'Use rwMode "overlayfs" for images with EROFS' },
      );
    // One that is mounted looks dirty, and is not to be touched.
    if (dirty && !(await isClaimed(devicePath))) await repair(devicePath, log);
    await mountFilesystem(devicePath, directory, type, { data: options.join(',') });
    return;
  }
  const reading = options.filter((option) => option !== 'discard');
  // The journal of an image is never replayed: that would write.
  if (type === 'ext4' && !reading.includes('noload')) reading.push('noload');
  await mountFilesystem(devicePath, directory, type, { readOnly: true, data: reading.join(',') });
}

/** Whether a device is mounted, in whatever namespace. */
async function isClaimed(devicePath: string): Promise<boolean> {
  try {
    await (await open(devicePath, constants.O_RDONLY | constants.O_EXCL)).close();
    return false;
  } catch (error) {
    if (isSystemError(error) && error.code === 'EBUSY') return true;
    throw ioError(error, `open "${devicePath}"`, devicePath);
  }
}

/** What a service that was killed may leave behind. */
async function repair(devicePath: string, log: Logger): Promise<void> {
  try {
    const { status, stdout, stderr } = await run('e2fsck', ['-p', devicePath], 'e2fsprogs');
    const said = (stdout + stderr).trim();
    log.warn({ devicePath, status, said }, 'file system was not unmounted cleanly and has been checked');
    if (status !== null && REPAIRED.has(status)) return;
    throw new DeviceError('OBD_DEVICE_KERNEL', `Cannot repair the file system of "${devicePath}": ${said}`, {
      source: devicePath,
      hint: 'Attach it with "obd attach" and run e2fsck by hand',
    });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    log.warn({ devicePath, err: error }, 'file system is not clean, and is not checked');
  }
}
