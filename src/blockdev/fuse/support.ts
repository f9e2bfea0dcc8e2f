import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Loading a module takes milliseconds; a machine where it takes longer has other problems. */
const MODPROBE_TIMEOUT_MS = 10_000;

async function usable(path: string): Promise<string | undefined> {
  try {
    await access(path, constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

/**
 * Why this process cannot serve through FUSE and a loop device; undefined if it can. Tries to load the modules where
 * the device nodes are missing.
 */
export async function fuseUnsupported(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'needs root';
  for (const [path, module] of [
    ['/dev/fuse', 'fuse'],
    ['/dev/loop-control', 'loop'],
  ] as const) {
    if ((await usable(path)) === undefined) continue;
    await run('modprobe', [module], { timeout: MODPROBE_TIMEOUT_MS }).catch(() => undefined);
    const problem = await usable(path);
    if (problem !== undefined) return `${path}: ${problem} (kernel module "${module}")`;
  }
  return undefined;
}
