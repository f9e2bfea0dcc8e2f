import { addon } from './addon.js';
import { systemError } from './system-error.js';

const Call = { WRITE: 0, MKDIR: 1, RMDIR: 2, UNLINK: 3, SYMLINK: 4 } as const;

function call(kind: number, what: string, path: string, argument: string): Promise<void> {
  return new Promise((resolve, reject) => {
    addon.blockingCall(kind, path, argument, (result) => {
      if (result < 0) reject(systemError(result, `${what} "${path}"`));
      else resolve();
    });
  });
}

/**
 * System calls that may wait for this very process (configfs attributes, links and directories of a device it serves).
 * Each has a thread of its own, so that libuv's pool stays free to serve the device. Rejections are system errors.
 */
export const blocking = {
  /** One write(2) to an existing file. */
  write: (path: string, text: string): Promise<void> => call(Call.WRITE, 'write', path, text),
  mkdir: (path: string): Promise<void> => call(Call.MKDIR, 'mkdir', path, ''),
  rmdir: (path: string): Promise<void> => call(Call.RMDIR, 'rmdir', path, ''),
  unlink: (path: string): Promise<void> => call(Call.UNLINK, 'unlink', path, ''),
  symlink: (target: string, path: string): Promise<void> => call(Call.SYMLINK, 'symlink', path, target),
};
