import { writeFile } from 'node:fs/promises';
import { ioError } from '../blob/index.js';
import { ImageError } from './image-error.js';

/** Longest reason: clients show it on one line. */
const MAX_REASON = 1000;

/** What the result file says about an attempt to open an image. */
export function resultText(error: unknown): string {
  if (error === undefined) return 'success';
  const text =
    error instanceof ImageError
      ? error.reason
      : `failed to create overlaybd device: ${error instanceof Error ? error.message : 'unknown error'}`;
  return `failed:${text.replaceAll(/[\r\n]+/g, ' ').slice(0, MAX_REASON)}`;
}

/**
 * Writes an image's `resultFile`, once per attempt to open it. An empty path writes nothing.
 * @param error what the attempt ended with; undefined for success.
 * @throws IoError
 */
export async function writeResultFile(path: string, error?: unknown): Promise<void> {
  if (path === '') return;
  try {
    await writeFile(path, resultText(error));
  } catch (cause) {
    throw ioError(cause, `write result file "${path}"`, path);
  }
}
