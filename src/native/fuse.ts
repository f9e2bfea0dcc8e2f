import { constants } from 'node:os';
import { addon } from './addon.js';
import { systemError } from './system-error.js';

/** Longest name of a file that {@link attachLoop} can be given. */
export const FUSE_NAME_MAX = 39;

/** A FUSE superblock that is mounted nowhere. Both descriptors belong to the caller. */
export interface FuseConnection {
  /** The server's end, to be given to a queue. Closing it ends the connection: who waits gets an error. */
  readonly fuseFd: number;
  /** Keeps the superblock; may be closed once a loop device does. */
  readonly mountFd: number;
}

/** A loop device that a thread of its own keeps (native/loop_device.h tells why). */
export interface LoopDevice {
  /** For {@link detachLoop} and {@link joinLoop}. */
  readonly handle: number;
  /** It is `/dev/loopNUMBER`. */
  readonly number: number;
}

/**
 * Opens /dev/fuse and makes a superblock for it. Asks nothing of the server, which need not run yet. Runs on the libuv
 * pool. Wraps obd_fuse_connect.
 * @param source what the kernel shows as the mounted thing.
 * @throws a system error: ENOENT or ENODEV without FUSE, EPERM without root.
 */
export async function connectFuse(source: string, readOnly: boolean): Promise<FuseConnection> {
  const [error, fuseFd, mountFd] = await addon.fuseConnect(source, readOnly);
  return { fuseFd: made(error, fuseFd, 'fsopen(fuse)'), mountFd: made(error, mountFd, 'fsmount') };
}

/**
 * Makes the queue that serves a connection: a root directory with one file, the device.
 * @param fuseFd belongs to the queue from now on.
 * @param name of the file, 1 to {@link FUSE_NAME_MAX} bytes.
 * @param size of the file, a multiple of 512.
 * @returns a handle for `IoLoop.add` or `discardQueue`. Wraps obd_fuse_queue_open.
 * @throws a system error; then `fuseFd` is still the caller's.
 */
export function makeFuseQueue(fuseFd: number, name: string, size: number, readOnly: boolean): number {
  const result = addon.fuseQueue(fuseFd, name, size, readOnly);
  if (result < 0) throw systemError(result, 'make a FUSE queue');
  return result;
}

/**
 * Makes `file` of the superblock a loop device: direct I/O, sectors of 512 bytes, no partitions, gone with its last
 * user. The server must be answering by now. Runs on the libuv pool. Wraps obd_loop_attach.
 * @throws a system error: ENOENT or ENODEV without loop devices, EBUSY if others took every free one.
 */
export async function attachLoop(mountFd: number, file: string, readOnly: boolean): Promise<LoopDevice> {
  const [error, handle, number] = await addon.loopAttach(mountFd, file, readOnly);
  return {
    handle: made(error, handle, 'ioctl(LOOP_CONFIGURE)'),
    number: made(error, number, 'ioctl(LOOP_CONFIGURE)'),
  };
}

/**
 * Begins to let go of a loop device; it ends with its last user. False, and nothing happens, if somebody uses it
 * exclusively (a mount in any namespace, device mapper), unless `force`. Wraps obd_loop_detach.
 * @throws a system error.
 */
export async function detachLoop(loop: LoopDevice, force: boolean): Promise<boolean> {
  const [error = 0] = await addon.loopDetach(loop.handle, force);
  if (error === -constants.errno.EBUSY) return false;
  if (error !== 0) throw systemError(error, 'let go of a loop device');
  return true;
}

/**
 * After {@link detachLoop}: settles when it is let go of. That waits for readahead under way, so it holds a thread of
 * the libuv pool for as long. Wraps obd_loop_join.
 */
export async function joinLoop(loop: LoopDevice): Promise<void> {
  const [error = 0] = await addon.loopJoin(loop.handle);
  if (error !== 0) throw systemError(error, 'wait for a loop device');
}

/** Takes an unused loop device out of /dev; false if it is in use or not there. Wraps obd_loop_remove. */
export async function removeLoop(number: number): Promise<boolean> {
  const [error = 0] = await addon.loopRemove(number);
  return error === 0;
}

function made(error: number | undefined, value: number | undefined, syscall: string): number {
  if (error === undefined || value === undefined) throw new TypeError(`${syscall} gave no result`);
  if (error !== 0) throw systemError(error, syscall);
  return value;
}
