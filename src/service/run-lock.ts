import { constants } from 'node:fs';
import { mkdir, open, readFile, unlink, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DeviceError, ioError } from '../blob/index.js';
import { FileLock, lockFile } from '../native/index.js';

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
  let file: FileHandle | undefined;
  try {
    await mkdir(dirname(socketPath), { recursive: true, mode: 0o700 });
    file = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    if (!lockFile(file.fd, FileLock.EXCLUSIVE)) {
      const pid = (await readFile(path, 'utf8')).trim();
      throw new DeviceError(
        'OBD_DEVICE_BUSY',
        `Cannot start the service: another one has ${socketPath}${pid === '' ? '' : ` (process ${pid})`}`,
        { hint: '"obd list" shows its devices; one started by "obd attach" ends with its last device' },
      );
    }
    await file.truncate();
    await file.write(`${process.pid}\n`, 0);
    await unlink(socketPath).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    });
    const held = file;
    // The file stays: who would remove it could remove another's.
    return { release: () => held.close() };
  } catch (error) {
    await file?.close();
    throw ioError(error, `lock "${path}"`, path);
  }
}
