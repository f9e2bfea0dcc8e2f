import { constants } from 'node:fs';
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { IoError, ioError } from '../blob/index.js';
import { fileLoad, type FileLoadResult } from '../native/index.js';
import { inOrder, placesOf, windowOf, type Load, type Measured } from './load.js';

/** How a device is opened. */
export interface DeviceLoadOptions {
  /** Through the page cache, rather than around it. Then the kernel makes one access after the other. */
  readonly buffered?: boolean;
  /** Tells where data is; the image behind the device, for example. Default: anywhere. */
  readonly map?: object;
}

/** Ticks of /proc/stat; USER_HZ is 100 on every Linux. */
const TICKS_PER_SECOND = 100;

/**
 * A load on a block device or a plain file, through the kernel. Its processor time is that of the whole machine:
 * nobody can tell who else works for a device. Writes destroy what is there, and want the device for themselves.
 * @throws IoError
 */
export async function deviceLoad(
  path: string,
  load: Load,
  options: DeviceLoadOptions = {},
): Promise<Measured> {
  const flags =
    (load.writes > 0 ? constants.O_RDWR | constants.O_EXCL : constants.O_RDONLY) |
    (options.buffered === true ? 0 : constants.O_DIRECT);
  let file: FileHandle;
  try {
    file = await open(path, flags);
  } catch (error) {
    throw ioError(error, `open "${path}"${options.buffered === true ? '' : ' for direct I/O'}`, path);
  }
  try {
    // A block device has no size of its own; Node cannot seek, the kernel's table can tell.
    const stats = await file.stat();
    const size = stats.isBlockDevice() ? await blockDeviceSize(stats.rdev, path) : stats.size;
    const places = placesOf(options.map ?? {}, size, load);
    const shape = {
      fd: file.fd,
      size,
      depth: load.depth,
      length: load.length,
      writes: load.writes,
      sequential: inOrder(load),
      window: windowOf(load),
      targets: places,
    };
    const run = async (seconds: number, seed: number): Promise<FileLoadResult> =>
      check(path, await fileLoad({ ...shape, seconds, seed }));
    if (load.warmUp > 0 && !load.cold) await run(load.warmUp, load.seed + 1);
    const busy = await busySeconds();
    const result = await run(load.seconds, load.seed);
    const cpu = ((await busySeconds()) - busy) / result.seconds;
    return { ...result, cpu };
  } finally {
    await file.close();
  }
}

async function blockDeviceSize(rdev: number, path: string): Promise<number> {
  // As glibc packs them: 12 bits of major, 20 of minor in what matters here.
  const major = (rdev >>> 8) & 0xfff;
  const minor = (rdev & 0xff) | (Math.floor(rdev / 2 ** 12) & 0xfff00);
  try {
    return Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * 512;
  } catch (error) {
    throw ioError(error, `find the size of "${path}"`, path);
  }
}

/** Processor seconds that this machine has spent working. */
async function busySeconds(): Promise<number> {
  const [line = ''] = (await readFile('/proc/stat', 'utf8')).split('\n');
  const [user = 0, nice = 0, system = 0, , , irq = 0, softIrq = 0] = line.split(/\s+/).slice(1).map(Number);
  return (user + nice + system + irq + softIrq) / TICKS_PER_SECOND;
}

function check(path: string, result: FileLoadResult): FileLoadResult {
  const { failed, firstFailure, error } = result;
  if (failed > 0)
    throw new IoError(
      'OBD_IO_FAILED',
      `Cannot measure "${path}": ${firstFailure === 0 ? 'an access came back short' : `an access failed with errno ${-firstFailure}`}`,
      {
        source: path,
        hint: "Direct I/O wants blocks of the device's own size; try a larger one, or --buffered",
      },
    );
  if (error !== 0)
    throw new IoError('OBD_IO_FAILED', `Cannot measure "${path}": the load ended with errno ${-error}`, {
      source: path,
    });
  return result;
}
