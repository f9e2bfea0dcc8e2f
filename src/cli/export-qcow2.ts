/** An image's device as a qcow2: qemu-img writes it, and reads the device over NBD, so that holes cost nothing. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { extentsOf, type ReadableBlob } from '../blob/index.js';
import { BlockDevice, NbdServer, nbdUri } from '../blockdev/index.js';
import { makeLogger } from '../log/index.js';
import { qemuImg, writeOutput } from '../tools/index.js';
import type { ExportResult } from './export.js';

/**
 * Writes `disk` to a new qcow2 file.
 * @throws ConfigError if qemu-img is not installed; IoError OBD_IO_EXISTS
 */
export async function exportToQcow2(
  disk: ReadableBlob,
  path: string,
  options: { readonly signal?: AbortSignal; readonly replace?: boolean } = {},
): Promise<ExportResult> {
  const dir = await mkdtemp(join(tmpdir(), 'obd-export-'));
  let server: NbdServer | undefined;
  try {
    const socket = join(dir, 'nbd');
    server = await NbdServer.listen(new BlockDevice(disk, { readOnly: true }), socket, makeLogger('warn'));
    const replace = { replace: options.replace === true, replaceHint: 'Use --force to replace it' };
    await writeOutput(path, replace, (output) =>
      qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', nbdUri(socket), output.temporaryPath], options.signal),
    );
  } finally {
    await server?.close();
    await rm(dir, { recursive: true, force: true });
  }
  let dataSize = 0;
  for (const { length, data } of extentsOf(disk, 0, disk.size)) if (data) dataSize += length;
  return { size: disk.size, dataSize };
}
