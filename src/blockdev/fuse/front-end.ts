/**
 * Devices without TCMU: a FUSE server that shows one file, and a loop device on that file.
 *
 *   /dev/loopN --direct I/O--> FUSE superblock, mounted nowhere --/dev/fuse--> native queue --> I/O worker
 *
 * Who keeps what alive: a native thread's descriptor of /dev/loopN keeps the loop device (it is of the kind that goes
 * with its last user); the loop device keeps the file and so the superblock; the superblock keeps the connection. So a
 * detach is one close(), and the queue's end tells that the kernel has taken all of it down. Nothing has a name in the file system:
 * when this process dies, by whatever signal, the same happens by itself. What cannot survive is a mount on the device:
 * its reads fail from then on, and it goes with its umount.
 */
import { execFile } from 'node:child_process';
import { close as closeCallback } from 'node:fs';
import { readFile, readdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import { DeviceError, OverlaybdError, isSystemError } from '../../blob/index.js';
import type { Logger } from '../../log/index.js';
import {
  attachLoop,
  connectFuse,
  detachLoop,
  joinLoop,
  makeFuseQueue,
  removeLoop,
  type LoopDevice,
} from '../../native/index.js';
import type { BlockDevice } from '../block-device.js';
import {
  DEVICE_ID,
  type AttachRequest,
  type Attachment,
  type FrontEnd,
  type ImageOpener,
} from '../front-end.js';
import type { IoGuard } from '../io-guard.js';
import type { IoWorkers, ServedQueue } from '../io-workers.js';
import { fuseUnsupported } from './support.js';

const close = promisify(closeCallback);
const run = promisify(execFile);

/** What a {@link FuseFrontEnd} is made with. */
export interface FuseFrontEndOptions {
  readonly open: ImageOpener;
  readonly workers: IoWorkers;
  readonly logger: Logger;
}

/**
 * How long a detach waits for others who have the device open without mounting it (a probe of udev, a `dd`). Then they
 * get I/O errors: they were told by nobody's mount that the device must stay.
 */
const LAST_USER_MS = 5000;

/** How long the end of the service waits for a file system that is still mounted. */
const SYNC_MS = 10_000;

class FuseAttachment implements Attachment {
  readonly id: string;
  readonly transport = 'fuse';
  readonly configPath: string;
  readonly device: BlockDevice;
  readonly devicePath: string;
  readonly served: ServedQueue;
  readonly loop: LoopDevice;
  /** The loop device did not exist before. */
  readonly madeLoop: boolean;
  /** While the loop device is being let go of, and once it is: whether it was. */
  leaving: Promise<boolean> | undefined;
  readonly #detach: (attachment: FuseAttachment) => Promise<void>;
  #detaching: Promise<void> | undefined;

  constructor(
    made: Pick<FuseAttachment, 'id' | 'configPath' | 'device' | 'served' | 'loop' | 'madeLoop'>,
    detach: (attachment: FuseAttachment) => Promise<void>,
  ) {
    this.id = made.id;
    this.configPath = made.configPath;
    this.device = made.device;
    this.served = made.served;
    this.loop = made.loop;
    this.madeLoop = made.madeLoop;
    this.devicePath = loopPath(made.loop.number);
    this.#detach = detach;
  }

  get guard(): IoGuard {
    return this.served.guard;
  }

  detach(): Promise<void> {
    this.#detaching ??= this.#detach(this).catch((error: unknown) => {
      this.#detaching = undefined; // still attached: it may be tried again
      throw error;
    });
    return this.#detaching;
  }
}

/** See the head of this file. Needs root. */
export class FuseFrontEnd implements FrontEnd {
  readonly transport = 'fuse';
  readonly #options: FuseFrontEndOptions;
  readonly #attached = new Map<string, FuseAttachment>();
  readonly #attaching = new Set<string>();
  #kernelTurn: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(options: FuseFrontEndOptions) {
    this.#options = options;
  }

  /** Nothing of an earlier process can be left. @throws DeviceError OBD_DEVICE_UNSUPPORTED if this machine lacks FUSE. */
  async start(): Promise<void> {
    const reason = await fuseUnsupported();
    if (reason !== undefined)
      throw new DeviceError('OBD_DEVICE_UNSUPPORTED', `Cannot serve devices through FUSE: ${reason}`);
  }

  async attach(request: AttachRequest): Promise<Attachment> {
    const { id, configPath } = request;
    if (!DEVICE_ID.test(id)) throw new TypeError(`"${id}" is no device id`);
    if (this.#closed)
      throw new DeviceError('OBD_DEVICE_BUSY', `Cannot attach "${id}": the service is stopping`);
    if (this.#attached.has(id) || this.#attaching.has(id))
      throw new DeviceError(
        'OBD_DEVICE_EXISTS',
        `Cannot attach "${id}": there is a FUSE device of this name`,
      );
    this.#attaching.add(id);
    try {
      const device = await this.#options.open(configPath);
      try {
        const attachment = await this.#build(id, configPath, device);
        this.#attached.set(id, attachment);
        void this.#watch(attachment);
        return attachment;
      } catch (error) {
        await device.close();
        throw kernelError(error, `attach "${id}" through FUSE`);
      }
    } finally {
      this.#attaching.delete(id);
    }
  }

  attachments(): readonly Attachment[] {
    return [...this.#attached.values()];
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(
      [...this.#attached.values()].map(async (attachment) => {
        try {
          await attachment.detach();
        } catch (error) {
          const { id, devicePath } = attachment;
          this.#options.logger.warn(
            { dev: id, devicePath, err: error },
            'device in use ends with the service',
          );
          if (!attachment.device.readOnly) await this.#syncMount(attachment);
          await this.#letGo(attachment, true);
          await this.#release(attachment, 0);
        }
      }),
    );
  }

  /** Builds from the inside out; takes down what it made if a step fails. */
  async #build(id: string, configPath: string, device: BlockDevice): Promise<FuseAttachment> {
    const name = fileName(id);
    const { workers, logger } = this.#options;
    const { fuseFd, mountFd } = await connectFuse(name, device.readOnly);
    let served: ServedQueue | undefined;
    try {
      let handle: number;
      try {
        handle = makeFuseQueue(fuseFd, name, device.size, device.readOnly);
      } catch (error) {
        await close(fuseFd);
        throw error;
      }
      served = await workers.serve(handle, device, logger.child({ dev: id }));
      const { loop, madeLoop } = await this.#inTurn(async () => {
        const before = await readdir('/sys/block');
        const loop = await attachLoop(mountFd, name, device.readOnly);
        return { loop, madeLoop: !before.includes(`loop${loop.number}`) };
      });
      return new FuseAttachment({ id, configPath, device, served, loop, madeLoop }, (attachment) =>
        this.#detach(attachment),
      );
    } catch (error) {
      await served?.remove();
      throw error;
    } finally {
      await close(mountFd);
    }
  }

  async #detach(attachment: FuseAttachment): Promise<void> {
    if (this.#attached.get(attachment.id) !== attachment) return;
    if (!(await this.#letGo(attachment, false))) {
      const users = await usersOf(attachment.loop.number);
      throw new DeviceError(
        'OBD_DEVICE_BUSY',
        `Cannot detach "${attachment.id}": ${attachment.devicePath} is in use`,
        {
          hint:
            users.length > 0
              ? `Unmount ${users.join(', ')} first`
              : 'It is mounted in another mount namespace, or a program claims it',
        },
      );
    }
    await this.#release(attachment, LAST_USER_MS);
  }

  /**
   * Has what was written to a mounted file system stored while that is possible. By a child process: a thread of ours
   * that waits for our own device would keep this process from dying.
   */
  async #syncMount({ id, loop }: FuseAttachment): Promise<void> {
    const mountpoint = (await usersOf(loop.number)).find((user) => user.startsWith('/'));
    if (mountpoint === undefined) return;
    await run('sync', ['-f', mountpoint], { timeout: SYNC_MS }).catch((error: unknown) => {
      this.#options.logger.warn({ dev: id, mountpoint, err: error }, 'file system is not synced');
    });
  }

  /** The end of the connection that follows from it is no news to {@link #watch}. @returns false if it is in use */
  #letGo(attachment: FuseAttachment, force: boolean): Promise<boolean> {
    const leaving = this.#inTurn(() => detachLoop(attachment.loop, force));
    attachment.leaving = leaving.catch(() => false);
    return leaving;
  }

  /** After the loop device was let go of: waits up to `patienceMs` for its last user, then ends the connection. */
  async #release(attachment: FuseAttachment, patienceMs: number): Promise<void> {
    this.#attached.delete(attachment.id);
    const { served, loop, device, madeLoop } = attachment;
    let timer;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, patienceMs)));
    await Promise.race([served.gone, late]);
    clearTimeout(timer);
    await served.remove();
    await this.#inTurn(() => joinLoop(loop));
    await device.close();
    if (madeLoop) await this.#inTurn(() => removeLoop(loop.number));
  }

  /** If the connection ends before we end it (an administrator aborted it), the device is of no more use. */
  async #watch(attachment: FuseAttachment): Promise<void> {
    const errno = await attachment.served.gone;
    if ((await attachment.leaving) === true || this.#attached.get(attachment.id) !== attachment) return;
    this.#options.logger.error({ dev: attachment.id, errno }, 'FUSE connection was aborted; device removed');
    await this.#inTurn(() => detachLoop(attachment.loop, true))
      .then(() => this.#release(attachment, 0))
      .catch((error: unknown) => {
        this.#options.logger.error({ dev: attachment.id, err: error }, 'device not released cleanly');
      });
  }

  /** One step at a time that may wait in the kernel, so that the libuv pool keeps threads for the reads it waits for. */
  #inTurn<T>(step: () => Promise<T>): Promise<T> {
    const turn = this.#kernelTurn.then(step);
    this.#kernelTurn = turn.catch(() => undefined);
    return turn;
  }
}

/** Shows in `losetup -l` and in /sys/block/loopN/loop/backing_file: whose device it is, and which process serves it. */
function fileName(id: string): string {
  return `overlaybd-${id}-${process.pid}`;
}

/**
 * The process that serves (or served) a loop device through FUSE; undefined if the device is none of ours.
 * @param name `loop0`.
 */
export async function servingProcessOf(name: string): Promise<number | undefined> {
  const file = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(() => '');
  const pid = /^\/overlaybd-.{1,13}-(\d+)\n?$/.exec(file)?.[1];
  return pid === undefined ? undefined : Number(pid);
}

function loopPath(number: number): string {
  return `/dev/loop${number}`;
}

/** Where the loop device is mounted, as far as this namespace shows, and what stands on it. */
async function usersOf(number: number): Promise<string[]> {
  const users: string[] = [];
  const mounts = await readFile('/proc/self/mountinfo', 'utf8').catch(() => '');
  for (const line of mounts.split('\n')) {
    const [, , device, , target] = line.split(' ');
    if (device === `7:${number}` && target !== undefined) users.push(target);
  }
  return users.concat(await readdir(`/sys/block/loop${number}/holders`).catch(() => []));
}

/** Failures of the kernel get a code; those of the image pass. */
function kernelError(error: unknown, action: string): unknown {
  if (error instanceof OverlaybdError || !isSystemError(error)) return error;
  const missing = ['ENOENT', 'ENODEV', 'ENXIO', 'ENOSYS'].includes(error.code);
  const denied = ['EPERM', 'EACCES'].includes(error.code);
  return new DeviceError(
    missing ? 'OBD_DEVICE_UNSUPPORTED' : 'OBD_DEVICE_KERNEL',
    `Cannot ${action}: ${error.message}`,
    {
      cause: error,
      ...(missing
        ? { hint: 'Are /dev/fuse, /dev/loop-control and /dev/loopN there? (modprobe fuse loop)' }
        : {}),
      ...(denied ? { hint: 'This needs root' } : {}),
    },
  );
}
