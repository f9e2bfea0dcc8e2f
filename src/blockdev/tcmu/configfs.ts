/**
 * Making and removing TCMU devices through configfs, as the reference's snapshotter and everybody's scripts do it
 * (specification section A.7): a backstore `core/user_<hba>/dev_<id>`, a loopback target, and a LUN that joins them.
 *
 * What looks here may wait for this very process: while the kernel takes a LUN away it holds the directory's lock, and flushes
 * the disk. So nothing but `blocking` calls touch configfs: neither this thread nor libuv's pool may wait.
 *
 * Order matters: control before enable, enable before the LUN, and backwards: a LUN goes before its backstore.
 * configfs takes no recursive removal, so each directory is removed by name.
 */
import { constants } from 'node:fs';
import { open, readFile, readdir, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeviceError, ioError, isSystemError } from '../../blob/index.js';
import { blocking } from '../../native/index.js';
import { naaOfBackstore, type TcmuNames } from './names.js';

const TARGET = '/sys/kernel/config/target';
/** Seconds: for ever, as far as the kernel is concerned. A reader waits through a restart of the service. */
const NO_TIMEOUT = '2147483';
const MAX_DATA_AREA_MB = 4;
const ENABLE_TRIES = 100;
const ENABLE_PAUSE_MS = 50;
/**
 * EAGAIN: a service is starting, and holds netlink until it is ready. EEXIST: another device goes away at this moment; the
 * kernel (drivers/uio/uio.c, uio_unregister_device) gives its number to us before it takes its name out of sysfs.
 */
const PASSING: readonly unknown[] = ['EAGAIN', 'EEXIST'];
/** The SCSI disk appears after its scan, which reads the partition table: from a registry, perhaps. */
const DISK_DEADLINE_MS = 60_000;
const DISK_PAUSE_MS = 10;
const CLAIM_TRIES = 10;
const CLAIM_PAUSE_MS = 30;

/** Directory of a backstore. */
export function backstoreDir(hba: number, device: string): string {
  return `${TARGET}/core/user_${hba}/${device}`;
}

function targetDir(naa: string): string {
  return `${TARGET}/loopback/${naa}`;
}

/** Of a device node or a directory of sysfs. */
async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** What `work` gives; undefined if what it looks at is not there, or goes away meanwhile. */
async function ifThere<T>(work: Promise<T>): Promise<T | undefined> {
  return work.catch(() => undefined);
}

async function ignoring(codes: readonly string[], work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!isSystemError(error) || !codes.includes(error.code)) throw error;
  }
}

async function makeDir(path: string): Promise<void> {
  await ignoring(['EEXIST'], blocking.mkdir(path));
}

async function removeDir(path: string): Promise<void> {
  await ignoring(['ENOENT'], blocking.rmdir(path));
}

/** The text that the image's result file holds, if it says that the open failed. */
async function failureOf(configPath: string): Promise<string | undefined> {
  try {
    const { resultFile } = JSON.parse(await readFile(configPath, 'utf8')) as { resultFile?: unknown };
    if (typeof resultFile !== 'string' || resultFile === '') return undefined;
    const text = (await readFile(resultFile, 'utf8')).trim();
    return text.startsWith('failed') ? text : undefined;
  } catch {
    return undefined; // there is no reason to tell
  }
}

async function enable(backstore: string, configPath: string): Promise<void> {
  for (let attempt = 1; ; attempt++)
    try {
      await blocking.write(`${backstore}/enable`, '1');
      return;
    } catch (error) {
      if (attempt < ENABLE_TRIES && isSystemError(error) && PASSING.includes(error.code)) {
        await sleep(ENABLE_PAUSE_MS);
        continue;
      }
      const reason =
        (await failureOf(configPath)) ?? (error instanceof Error ? error.message : String(error));
      throw new DeviceError('OBD_DEVICE_KERNEL', `Cannot enable the device of "${configPath}": ${reason}`, {
        source: configPath,
        cause: error,
      });
    }
}

/** `/dev/sdX` of a SCSI address `H:C:T` as loopback shows it, or undefined. */
async function diskOf(address: string): Promise<string | undefined> {
  const names = await readdir(`/sys/class/scsi_device/${address}:0/device/block`).catch(() => []);
  return names[0];
}

async function waitForDisk(names: TcmuNames): Promise<string> {
  const address = (await blocking.readFile(`${targetDir(names.naa)}/tpgt_1/address`)).trim();
  const deadline = performance.now() + DISK_DEADLINE_MS;
  for (;;) {
    const disk = await diskOf(address);
    if (disk !== undefined && (await exists(`/sys/block/${disk}`)) && (await exists(`/dev/${disk}`))) {
      // By its address: the disk's own entries come and go while the kernel sets it up.
      await blocking.write(`/sys/class/scsi_device/${address}:0/device/timeout`, NO_TIMEOUT);
      return disk;
    }
    if (performance.now() > deadline)
      throw new DeviceError(
        'OBD_DEVICE_KERNEL',
        `No disk appeared at SCSI address ${address}:0 for "${names.device}" within ${DISK_DEADLINE_MS / 1000} s`,
        { hint: 'See dmesg for what the SCSI layer says about it' },
      );
    await sleep(DISK_PAUSE_MS);
  }
}

/**
 * Makes the device and waits for its disk. The service must be running, in this process or another.
 * @returns path of the block device.
 * @throws DeviceError OBD_DEVICE_EXISTS if it is there and in use, OBD_DEVICE_KERNEL with the image's own reason if it
 * does not open. Nothing is left behind then.
 */
export async function createTcmuDevice(names: TcmuNames, configPath: string): Promise<string> {
  const backstore = backstoreDir(names.hba, names.device);
  const target = targetDir(names.naa);
  const enabled = await ifThere(blocking.readFile(`${backstore}/enable`));
  if (enabled !== undefined) {
    if (enabled.trim() === '1')
      throw new DeviceError('OBD_DEVICE_EXISTS', `Cannot make "${names.device}": it exists`, {
        source: backstore,
      });
    await removeTcmuDevice(names); // half of a device, from somebody who was interrupted
  }
  try {
    await makeDir(`${TARGET}/core/user_${names.hba}`);
    await blocking.mkdir(backstore);
  } catch (error) {
    if (isSystemError(error) && error.code === 'EEXIST')
      throw new DeviceError(
        'OBD_DEVICE_EXISTS',
        `Cannot make "${names.device}": somebody else is making it`,
        {
          source: backstore,
        },
      );
    throw ioError(error, `make the device "${names.device}"`, backstore);
  }
  try {
    await blocking.write(`${backstore}/control`, `dev_config=${names.config}`);
    await blocking.write(`${backstore}/control`, `max_data_area_mb=${MAX_DATA_AREA_MB}`);
    await enable(backstore, configPath);
    await blocking.write(`${backstore}/attrib/cmd_time_out`, NO_TIMEOUT);
    await makeDir(`${TARGET}/loopback`);
    await makeDir(target);
    await makeDir(`${target}/tpgt_1`);
    await makeDir(`${target}/tpgt_1/lun/lun_0`);
    await blocking.write(`${target}/tpgt_1/nexus`, names.naa);
    await blocking.symlink(backstore, `${target}/tpgt_1/lun/lun_0/${names.device}`);
    const disk = await waitForDisk(names);
    return `/dev/${disk}`;
  } catch (error) {
    await removeTcmuDevice(names).catch(() => undefined); // the first failure is the one to tell
    throw ioError(error, `make the device "${names.device}"`, backstore);
  }
}

/** What {@link removeTcmuDevice} needs to know. */
export interface TcmuRemoval {
  readonly hba: number;
  readonly device: string;
  /** Undefined: it has no LUN. */
  readonly naa: string | undefined;
}

/**
 * Removes a device, or what there is of it. The kernel waits for its commands in flight.
 * @throws IoError if the kernel refuses a step.
 */
export async function removeTcmuDevice(names: TcmuRemoval): Promise<void> {
  const backstore = backstoreDir(names.hba, names.device);
  try {
    if (names.naa !== undefined) {
      const tpg = `${targetDir(names.naa)}/tpgt_1`;
      await ignoring(['ENOENT'], blocking.unlink(`${tpg}/lun/lun_0/${names.device}`));
      await removeDir(`${tpg}/lun/lun_0`);
      await removeDir(tpg);
      await removeDir(targetDir(names.naa));
    }
    await removeDir(backstore);
  } catch (error) {
    throw ioError(error, `remove the device "${names.device}"`, backstore);
  }
}

/** Where a backstore's LUN is: its target's name and its block device, as far as they exist. */
export interface TcmuLun {
  readonly naa: string;
  readonly devicePath: string | undefined;
}

/** Finds the loopback LUN of a backstore, whoever made it; undefined if there is none, or somebody takes it apart. */
export async function findLun(hba: number, device: string): Promise<TcmuLun | undefined> {
  const usual = naaOfBackstore(hba, device);
  const found = usual === undefined ? undefined : await lunOf(usual, hba, device);
  if (found !== undefined) return found;
  for (const naa of (await ifThere(blocking.readdir(`${TARGET}/loopback`))) ?? []) {
    const lun = await lunOf(naa, hba, device);
    if (lun !== undefined) return lun;
  }
  return undefined;
}

/** The LUN of a backstore at one target; undefined if that target has another. */
async function lunOf(naa: string, hba: number, device: string): Promise<TcmuLun | undefined> {
  const tpg = `${targetDir(naa)}/tpgt_1`;
  const link = await ifThere(blocking.readlink(`${tpg}/lun/lun_0/${device}`));
  if (link?.endsWith(backstoreDir(hba, device).slice(TARGET.length)) !== true) return undefined;
  const address = await ifThere(blocking.readFile(`${tpg}/address`));
  const disk = address === undefined ? undefined : await diskOf(address.trim());
  return { naa, devicePath: disk === undefined ? undefined : `/dev/${disk}` };
}

/**
 * The kernel itself claims a disk for moments, to read its partition table.
 * @throws DeviceError OBD_DEVICE_BUSY if a block device is mounted or otherwise claimed for longer than that.
 */
export async function assertUnused(devicePath: string): Promise<void> {
  for (let attempt = 1; ; attempt++)
    try {
      await (await open(devicePath, constants.O_RDONLY | constants.O_EXCL)).close();
      return;
    } catch (error) {
      if (!isSystemError(error) || error.code !== 'EBUSY') {
        if (isSystemError(error) && error.code === 'ENOENT') return;
        throw ioError(error, `open "${devicePath}"`, devicePath);
      }
      if (attempt === CLAIM_TRIES)
        throw new DeviceError('OBD_DEVICE_BUSY', `Cannot detach "${devicePath}": it is in use`, {
          source: devicePath,
          hint: 'Unmount it first',
          cause: error,
        });
      await sleep(CLAIM_PAUSE_MS);
    }
}
