/** An archive that was packed as a whole (`docker save app | gzip`): into a file without a name, to be read in place. */
import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { createRequire } from 'node:module';
import { open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import type * as ZstdNapi from 'zstd-napi';
import { ConvertError, FileBlob, ioError, isSystemError } from '../blob/index.js';

/** Archives of images are smaller; one that only claims to be ends here, or at the end of the disk. */
const MAX_UNPACKED = 256 * 2 ** 30;

/** How an archive can be packed. */
export type ArchivePacking = 'gzip' | 'zstd';

/**
 * Unpacks the file into `workDir`, or the directory for temporary files.
 * @returns what is in it; its file is gone when it is closed, however the process ends.
 * @throws ConvertError OBD_CONVERT_BAD_TAR for a damaged file, IoError.
 */
export async function unpackArchive(
  path: string,
  packing: ArchivePacking,
  workDir = tmpdir(),
  most = MAX_UNPACKED,
): Promise<FileBlob> {
  const name = join(workDir, `.obd-archive-${randomBytes(8).toString('hex')}`);
  const handle = await open(name, 'wx+', 0o600).catch((error: unknown) => {
    throw ioError(error, `make a work file in "${workDir}"`, workDir);
  });
  let failure: unknown;
  try {
    await unlink(name);
    let size = 0;
    await pipeline(
      createReadStream(path, { highWaterMark: 256 * 1024 }),
      packing === 'gzip' ? createGunzip({ chunkSize: 256 * 1024 }) : zstdStream(),
      async (plain: AsyncIterable<Uint8Array>) => {
        for await (const chunk of plain) {
          size += chunk.byteLength;
          try {
            if (size > most) throw new Error(`it unpacks to more than ${most} bytes`);
            await handle.writeFile(chunk);
          } catch (error) {
            failure = error; // The pipeline would only say that it was ended.
            throw error;
          }
        }
      },
    );
    return await FileBlob.open(`/proc/self/fd/${handle.fd}`);
  } catch (caught) {
    const error = failure ?? caught;
    if (isSystemError(error) && error.syscall !== undefined)
      throw ioError(error, `unpack "${path}" to "${workDir}"`, path);
    throw new ConvertError(
      'OBD_CONVERT_BAD_TAR',
      `Cannot unpack archive "${path}": ${packing} stream: ${error instanceof Error ? error.message : String(error)}`,
      { source: path, cause: error },
    );
  } finally {
    await handle.close();
  }
}

/** Loaded when there is such an archive, which is seldom. */
function zstdStream(): ZstdNapi.DecompressStream {
  const { DecompressStream } = createRequire(import.meta.url)('zstd-napi') as typeof ZstdNapi;
  return new DecompressStream();
}
