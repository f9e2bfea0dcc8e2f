/** qemu-img, for disk formats that are QEMU's own business. */
import { FormatError } from '../blob/index.js';
import { runProgram } from './run-program.js';

/** Runs qemu-img to its end. @throws ConfigError if it is not installed, FormatError with its own words if it fails */
export async function qemuImg(args: readonly string[], signal?: AbortSignal): Promise<void> {
  const { status, stderr } = await runProgram('qemu-img', args, { pkg: 'qemu-utils', signal });
  if (status === 0) return;
  throw new FormatError(
    'OBD_FORMAT_UNSUPPORTED',
    `qemu-img ${args[0] ?? ''} failed: ${stderr.trim() || `status ${String(status)}`}`,
  );
}

/** Formats that are read and written here. */
export type DiskFormat = 'raw' | 'qcow2';

/** What a disk's first bytes say. */
export function diskFormat(start: Uint8Array): DiskFormat {
  return start[0] === 0x51 && start[1] === 0x46 && start[2] === 0x49 && start[3] === 0xfb ? 'qcow2' : 'raw';
}
