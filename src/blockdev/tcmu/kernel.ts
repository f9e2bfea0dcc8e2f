import { readFile, readdir } from 'node:fs/promises';
import { execFile } from 'node:child_process';
import { DeviceError, ioError, isSystemError } from '../../blob/index.js';
import { blocking } from '../../native/index.js';
import { backstoreDir } from './configfs.js';

const PARAMETERS = '/sys/module/target_core_user/parameters';

/** True if the kernel can serve TCMU devices, loading its modules if need be. */
export async function tcmuAvailable(): Promise<boolean> {
  // sd_mod: a SCSI device without it never becomes a disk, and nothing says so.
  for (const module of ['target_core_user', 'tcm_loop', 'sd_mod'])
    await new Promise<void>((resolve) => {
      execFile('modprobe', ['-q', module], () => {
        resolve(); // whether it is there is asked below
      });
    });
  return readdir(PARAMETERS).then(
    () => true,
    () => false,
  );
}

/** Holds netlink messages back (or lets them go); false on kernels that cannot. */
export async function blockNetlink(blocked: boolean): Promise<boolean> {
  try {
    await blocking.write(`${PARAMETERS}/block_netlink`, blocked ? '1' : '0');
    return true;
  } catch (error) {
    if (isSystemError(error) && error.code === 'ENOENT') return false;
    throw ioError(error, `set block_netlink`, PARAMETERS);
  }
}

/** Ends the waits for a service that died. Only while blocked. */
export async function resetNetlink(): Promise<void> {
  await blocking.write(`${PARAMETERS}/reset_netlink`, '1').catch(() => undefined); // nothing to reset
}

/** One UIO device of TCMU. */
export interface UioDevice {
  readonly minor: number;
  readonly name: string;
}

/** All TCMU devices there are, by name. */
export async function listUioDevices(): Promise<UioDevice[]> {
  const found: UioDevice[] = [];
  for (const uio of (await readdir('/sys/class/uio').catch(() => [])).sort()) {
    const name = await readFile(`/sys/class/uio/${uio}/name`, 'utf8').catch(() => '');
    if (name.startsWith('tcm-user/'))
      found.push({ minor: Number(uio.slice(3)), name: name.replace(/\n$/, '') });
  }
  return found;
}

/** Bytes of a device's shared memory. */
export async function mapSize(minor: number): Promise<number> {
  const path = `/sys/class/uio/uio${minor}/maps/map0/size`;
  try {
    const size = Number((await readFile(path, 'utf8')).trim());
    if (!Number.isSafeInteger(size) || size <= 0)
      throw new DeviceError('OBD_DEVICE_KERNEL', `Cannot map uio${minor}: its size is not a number`, {
        source: path,
      });
    return size;
  } catch (error) {
    throw ioError(error, `read "${path}"`, path);
  }
}

/** Stops (or restarts) the flow of commands into a device's ring. */
export async function blockDevice(hba: number, device: string, blocked: boolean): Promise<void> {
  const path = `${backstoreDir(hba, device)}/action/block_dev`;
  await blocking.write(path, blocked ? '1' : '0').catch((error: unknown) => {
    if (!isSystemError(error) || error.code !== 'ENOENT') throw ioError(error, `write "${path}"`, path);
  });
}

/** Empties a ring that nobody serves: the initiator sends its commands again. */
export async function resetRing(hba: number, device: string): Promise<void> {
  const path = `${backstoreDir(hba, device)}/action/reset_ring`;
  await blocking.write(path, '1').catch((error: unknown) => {
    if (!isSystemError(error) || error.code !== 'ENOENT') throw ioError(error, `write "${path}"`, path);
  });
}
