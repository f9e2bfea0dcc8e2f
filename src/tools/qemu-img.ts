/** qemu-img, for disk formats that are QEMU's own business. */
import { spawn } from 'node:child_process';
import { abortedError, ConfigError, FormatError, isSystemError } from '../blob/index.js';

/** Most of what it says that an error repeats. */
const MAX_SAID = 2000;

/**
 * Runs qemu-img to its end and gives what it printed.
 * @throws ConfigError if it is not installed, FormatError with its own words if it fails
 */
export async function qemuImg(args: readonly string[], signal?: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn('qemu-img', args, { stdio: ['ignore', 'pipe', 'pipe'], signal });
    let out = '';
    let said = '';
    child.stdout.on('data', (text: Buffer) => (out += text.toString()));
    child.stderr.on('data', (text: Buffer) => {
      if (said.length < MAX_SAID) said += text.toString();
    });
    child.once('error', (error) => {
      if (signal?.aborted === true) reject(abortedError('qemu-img', signal));
      else if (isSystemError(error) && error.code === 'ENOENT')
        reject(
          new ConfigError('OBD_CONFIG_NOT_FOUND', 'Cannot run qemu-img: it is not installed', {
            hint: 'Install it (Debian: qemu-utils), or convert the disk to a raw one first',
          }),
        );
      else reject(error);
    });
    child.once('close', (status) => {
      if (status === 0) resolve(out);
      else
        reject(
          new FormatError(
            'OBD_FORMAT_UNSUPPORTED',
            `qemu-img ${args[0] ?? ''} failed: ${said.slice(0, MAX_SAID).trim() || `status ${String(status)}`}`,
          ),
        );
    });
  });
}

/** Formats that are read here; others may be QEMU's, but are not looked for. */
export type DiskFormat = 'raw' | 'qcow2';

/** What a disk's first bytes say. */
export function diskFormat(start: Uint8Array): DiskFormat {
  return start[0] === 0x51 && start[1] === 0x46 && start[2] === 0x49 && start[3] === 0xfb ? 'qcow2' : 'raw';
}
