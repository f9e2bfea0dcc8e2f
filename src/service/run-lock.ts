import { constants } from 'node:fs';
import { open, readFile, rmdir, stat, unlink, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeviceError, ioError, makeDirectory } from '../blob/index.js';
import { FileLock, lockFile } from '../native/index.js';

/** How long a service that ends may take: some seconds for who still has a FUSE device open. */
const ENDING_MS = 15_000;
const POLL_MS = 50;

/** Held by the one service of a socket. The kernel drops it with the process, however that ends. */
export interface RunLock {
  release(): Promise<void>;
}

/**
 * Takes the lock beside a socket; then whatever socket lies there is stale, and is removed. Makes the directory, for
 * root only.
 * @throws DeviceError OBD_DEVICE_BUSY if another service has it.
 */
export async function takeRunLock(socketPath: string): Promise<RunLock> {
  const path = `${socketPath}.lock`;
  const dir = dirname(socketPath);
  const deadline = Date.now() + ENDING_MS;
  let file: FileHandle | undefined;
  try {
    do {
      await file?.close();
      await makeDirectory(dir, 0o700);
      file = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
      while (!lockFile(file.fd, FileLock.EXCLUSIVE)) {
        // Without its socket it is only starting, or ending: then its end is near.
        const serves = await stat(socketPath).catch(() => undefined);
        if (serves === undefined && Date.now() < deadline) {
          await sleep(POLL_MS);
          continue;
        }
        const pid = (await readFile(path, 'utf8')).trim();
        throw new DeviceError(
          'OBD_DEVICE_BUSY',
          `Cannot start the service: another one has ${socketPath}${pid === '' ? '' : ` (process ${pid})`}`,
          { hint: '"obd list" shows its devices; one started by "obd attach" ends with its last device' },
        );
      }
      // The holder before may have removed the file between our open and our lock; then the lock is worth nothing.
    } while (!(await isNamed(path, file)));
    await file.truncate();
    await file.write(`${process.pid}\n`, 0);
    await unlink(socketPath).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    });
  } catch (error) {
    await file?.close();
    throw ioError(error, `lock "${path}"`, path);
  }
  const held = file;
  return {
    async release() {
      await unlink(path).catch(() => undefined);
      await held.close();
      await rmdir(dir).catch(() => undefined); // unless others use it
    },
  };
}

async function isNamed(path: string, file: FileHandle): Promise<boolean> {
  const named = await stat(path).catch(() => undefined);
  const opened = await file.stat();
  return named?.ino === opened.ino && named.dev === opened.dev;
}
