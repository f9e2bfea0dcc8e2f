/**
 * Directories, their missing parents included. Node's own `recursive` never returns where a parent can neither be found nor
 * made (`/proc/x/y`: mkdir says ENOENT at every level), and a service that waits for its cache directory hangs.
 */
import { mkdirSync, statSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { isSystemError } from './errors.js';

/**
 * Makes a directory unless it is there. Calls may overlap.
 * @param mode of all that is made.
 * @returns true if it was made here.
 * @throws a system error of the first level that cannot be made.
 */
export async function makeDirectory(path: string, mode = 0o777): Promise<boolean> {
  const full = resolve(path);
  try {
    await mkdir(full, { mode });
    return true;
  } catch (error) {
    if (isSystemError(error) && error.code === 'EEXIST' && (await stat(full)).isDirectory()) return false;
    if (!lacksParent(error, full)) throw error;
  }
  await makeDirectory(dirname(full), mode);
  try {
    await mkdir(full, { mode });
    return true;
  } catch (error) {
    // Somebody else was quicker.
    if (isSystemError(error) && error.code === 'EEXIST' && (await stat(full)).isDirectory()) return false;
    throw error;
  }
}

/** {@link makeDirectory}, at once. */
export function makeDirectorySync(path: string, mode = 0o777): boolean {
  const full = resolve(path);
  try {
    mkdirSync(full, { mode });
    return true;
  } catch (error) {
    if (isSystemError(error) && error.code === 'EEXIST' && statSync(full).isDirectory()) return false;
    if (!lacksParent(error, full)) throw error;
  }
  makeDirectorySync(dirname(full), mode);
  try {
    mkdirSync(full, { mode });
    return true;
  } catch (error) {
    if (isSystemError(error) && error.code === 'EEXIST' && statSync(full).isDirectory()) return false;
    throw error;
  }
}

function lacksParent(error: unknown, path: string): boolean {
  return isSystemError(error) && error.code === 'ENOENT' && dirname(path) !== path;
}
