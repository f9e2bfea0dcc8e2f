/**
 * Mounts that `obd mount` made. Each has a record in the run directory, so that when a service was killed, the next one
 * can take away what can only give I/O errors: the mounts of its FUSE devices. Mounts that others made stay.
 */
import { createHash } from 'node:crypto';
import { readFile, readdir, rm, rmdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { ioError, makeDirectory } from '../blob/index.js';
import { servingProcessOf } from '../blockdev/index.js';
import type { Logger } from '../log/index.js';
import { unmountFilesystem } from '../native/index.js';

const recordSchema = z.object({ directory: z.string(), devicePath: z.string() });
/** A mount of ours. */
export type MountRecord = z.infer<typeof recordSchema>;

/** A line of /proc/self/mountinfo. */
export interface Mount {
  /** `major:minor`. */
  readonly device: string;
  readonly directory: string;
  readonly type: string;
  readonly source: string;
}

/** All mounts of this namespace, in order: the last at a directory is what one sees there. */
export async function listMounts(): Promise<Mount[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  return text.split('\n').flatMap((line) => {
    const [left = '', right = ''] = line.split(' - ');
    const [, , device, , directory] = left.split(' ');
    const [type = '', source = ''] = right.split(' ');
    if (device === undefined || directory === undefined) return [];
    return [{ device, directory: unescape(directory), type, source: unescape(source) }];
  });
}

/** The kernel writes space, tab, newline and backslash in octal. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}

function recordPath(runDir: string, directory: string): string {
  return join(runDir, 'mounts', createHash('sha256').update(directory).digest('hex').slice(0, 32));
}

/** Remembers a mount. @throws IoError */
export async function recordMount(runDir: string, record: MountRecord): Promise<void> {
  const path = recordPath(runDir, record.directory);
  try {
    await makeDirectory(join(runDir, 'mounts'), 0o700);
    await writeFile(path, JSON.stringify(record), { mode: 0o600 });
  } catch (error) {
    throw ioError(error, `write "${path}"`, path);
  }
}

/** Forgets a mount; nothing happens if it was not known. @throws IoError */
export async function forgetMount(runDir: string, directory: string): Promise<void> {
  const path = recordPath(runDir, directory);
  await rm(path, { force: true }).catch((error: unknown) => {
    throw ioError(error, `remove "${path}"`, path);
  });
  await rmdir(join(runDir, 'mounts')).catch(() => undefined); // unless there are others
}

/**
 * Takes away the mounts on record whose device lost its service, and the records of mounts that are gone. Directories
 * that are still in use leave the tree at once and end with their last user.
 */
export async function removeDeadMounts(runDir: string, log: Logger): Promise<void> {
  const dir = join(runDir, 'mounts');
  const mounts = await listMounts();
  for (const name of await readdir(dir).catch(() => [])) {
    try {
      const record = recordSchema.parse(JSON.parse(await readFile(join(dir, name), 'utf8')));
      const mount = mounts.findLast((m) => m.directory === record.directory);
      if (mount?.source === record.devicePath) {
        if ((await deviceState(record.devicePath)) !== 'dead') continue;
        log.warn({ ...record }, 'removing the mount of a device whose service was killed');
        await unmountFilesystem(record.directory, true);
      }
      await rm(join(dir, name), { force: true });
    } catch (error) {
      log.warn({ record: join(dir, name), err: error }, 'mount record is not used');
    }
  }
}

/** `dead`: a FUSE device whose service is gone. `other`: anything that may live, or that is not of a FUSE service. */
export async function deviceState(devicePath: string): Promise<'dead' | 'served' | 'other'> {
  const pid = await servingProcessOf(basename(devicePath));
  if (pid === undefined) return 'other';
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // After the name in parentheses comes the state; a zombie waits for its parent only and serves nobody.
  const state = /\) (.)[^)]*$/.exec(stat)?.[1];
  return state === undefined || state === 'Z' || state === 'X' ? 'dead' : 'served';
}
