import { addon } from './addon.js';
import { systemError } from './system-error.js';

/** What a mount may do; absent means allowed. */
export interface MountOptions {
  readonly readOnly?: boolean;
  readonly nosuid?: boolean;
  readonly nodev?: boolean;
  readonly noexec?: boolean;
  /** The file system's own options, comma-separated. */
  readonly data?: string;
}

/**
 * Mounts a block device. Runs on the libuv pool and waits for the device's first blocks. Wraps obd_mount.
 * @throws a system error, for example EINVAL if the device holds no such file system.
 */
export async function mountFilesystem(
  source: string,
  target: string,
  type: string,
  options: MountOptions = {},
): Promise<void> {
  const flags =
    (options.readOnly === true ? 1 : 0) |
    (options.nosuid === true ? 2 : 0) |
    (options.nodev === true ? 4 : 0) |
    (options.noexec === true ? 8 : 0);
  const [error = 0] = await addon.mount(source, target, type, flags, options.data ?? '');
  if (error !== 0) throw systemError(error, `mount ${type}`);
}

/**
 * Makes a mounted file system read-only, or writable again, for all who see it. Wraps obd_mount.
 * @throws a system error: EBUSY if files are open for writing.
 */
export async function remountFilesystem(target: string, readOnly: boolean): Promise<void> {
  const [error = 0] = await addon.mount('none', target, 'none', 16 | (readOnly ? 1 : 0), '');
  if (error !== 0) throw systemError(error, 'remount');
}

/**
 * Unmounts what is mounted at `target`; with `lazy` it leaves the tree at once and ends with its last user.
 * Wraps obd_unmount.
 * @throws a system error: EBUSY if files are open on it, EINVAL if nothing is mounted there.
 */
export async function unmountFilesystem(target: string, lazy = false): Promise<void> {
  const [error = 0] = await addon.unmount(target, lazy);
  if (error !== 0) throw systemError(error, 'umount');
}

/**
 * Puts an empty directory into a project, a number that all files below inherit, and limits what the project may take.
 * 0 bytes: takes the limit away. Wraps obd_project_quota.
 * @throws a system error: ESRCH without project quota on the file system, ENOSYS, EOPNOTSUPP or ENOTTY where there is none.
 */
export async function setProjectQuota(directory: string, project: number, bytes: number): Promise<void> {
  const [error = 0] = await addon.projectQuota(directory, project, bytes);
  if (error !== 0) throw systemError(error, 'quota');
}

/**
 * Tells the kernel that this thread, and those it starts from now on, serve block devices: memory that they ask for then
 * never waits for writes to a device, which may be their own. Wraps obd_set_io_flusher.
 * @returns false without the privilege (CAP_SYS_RESOURCE), or before Linux 5.6.
 */
export function setIoFlusher(): boolean {
  return addon.setIoFlusher() === 0;
}

/** For a process that lives long: buffers that are freed go back to the system. Wraps obd_keep_heap_small. */
export function keepHeapSmall(): void {
  addon.keepHeapSmall();
}

/**
 * Ends the process at once. `process.exit()` waits for the threads of libuv's pool, and one that opens a file on a server
 * that is gone never ends. What is still to be written is lost. Wraps obd_exit_now.
 */
export function exitNow(status: number): never {
  addon.exitNow(status);
  throw new Error('the process goes on');
}

/**
 * Lets this process have up to `want` open files, or as many as it may. Returns the limit that holds then. Wraps
 * obd_raise_file_limit.
 * @throws a system error.
 */
export function raiseFileLimit(want: number): number {
  const limit = addon.raiseFileLimit(want);
  if (limit < 0) throw systemError(limit, 'setrlimit');
  return limit;
}
