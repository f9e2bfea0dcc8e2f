import { addon } from './addon.js';
import { systemError } from './system-error.js';

const Call = { WRITE: 0, MKDIR: 1, RMDIR: 2, UNLINK: 3, SYMLINK: 4, READ: 5, LIST: 6, LINK: 7 } as const;

function call(kind: number, what: string, path: string, argument = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    addon.blockingCall(kind, path, argument, (result, text) => {
      if (result < 0) reject(systemError(result, `${what} "${path}"`));
      else resolve(text);
    });
  });
}

/**
 * System calls that may wait for this very process (configfs attributes, links and directories of a device it serves).
 * Each has a thread of its own, so that libuv's pool stays free to serve the device. Rejections are system errors.
 */
export const blocking = {
  /** One write(2) to an existing file. */
  write: async (path: string, text: string): Promise<void> => {
    await call(Call.WRITE, 'write', path, text);
  },
  mkdir: async (path: string): Promise<void> => {
    await call(Call.MKDIR, 'mkdir', path);
  },
  rmdir: async (path: string): Promise<void> => {
    await call(Call.RMDIR, 'rmdir', path);
  },
  unlink: async (path: string): Promise<void> => {
    await call(Call.UNLINK, 'unlink', path);
  },
  symlink: async (target: string, path: string): Promise<void> => {
    await call(Call.SYMLINK, 'symlink', path, target);
  },
  /** One read(2) of at most 4096 bytes, which an attribute fits. */
  readFile: (path: string): Promise<string> => call(Call.READ, 'read', path),
  /** Names in a directory. */
  readdir: async (path: string): Promise<string[]> =>
    (await call(Call.LIST, 'list', path)).split('/').slice(0, -1),
  readlink: (path: string): Promise<string> => call(Call.LINK, 'read the link', path),
};
