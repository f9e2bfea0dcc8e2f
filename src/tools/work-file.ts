import { read } from 'node:fs';
import { promisify } from 'node:util';
import { FormatError } from '../blob/index.js';

const readFd = promisify(read);

/** Fills `into` from the work file of an ext4 image. @throws a system error; FormatError if the file is too short */
export async function readWorkFile(fd: number, offset: number, into: Uint8Array): Promise<void> {
  for (let done = 0; done < into.byteLength;) {
    const { bytesRead } = await readFd(fd, into, done, into.byteLength - done, offset + done);
    if (bytesRead === 0)
      throw new FormatError(
        'OBD_FORMAT_TRUNCATED',
        `Cannot read the ext4 work file at ${offset + done}: it ends`,
      );
    done += bytesRead;
  }
}
