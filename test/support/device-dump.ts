/** Compares a device, or a raw file, with a device dump of the golden images (`device*.json`). */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

/** What a device must hold: chunks that are not listed read as zeroes. */
export interface DeviceDump {
  readonly virtualSize: number;
  readonly chunkSize: number;
  readonly chunks: readonly { readonly index: number; readonly sha256: string }[];
}

/** Reads a `device*.json`. */
export function readDeviceDump(file: string): DeviceDump {
  return JSON.parse(readFileSync(file, 'utf8')) as DeviceDump;
}

/**
 * Indexes of the chunks that differ. Every listed chunk is read, and of the others (a device can be huge, and almost all of
 * it zero) the neighbours of listed ones, the last, and `samples` spread evenly.
 */
export function differingChunks(device: string, dump: DeviceDump, samples = 64): number[] {
  const count = Math.ceil(dump.virtualSize / dump.chunkSize);
  const listed = new Map(dump.chunks.map(({ index, sha256 }) => [index, sha256]));
  const wanted = new Set<number>([count - 1]);
  for (const index of listed.keys()) for (const near of [index - 1, index, index + 1]) wanted.add(near);
  for (let i = 0; i < samples; i++) wanted.add(Math.floor((i * count) / samples));

  const buffer = Buffer.allocUnsafe(dump.chunkSize);
  const zeroes = Buffer.alloc(dump.chunkSize);
  const fd = openSync(device, 'r');
  try {
    return [...wanted]
      .filter((index) => index >= 0 && index < count)
      .sort((a, b) => a - b)
      .filter((index) => {
        const offset = index * dump.chunkSize;
        const chunk = buffer.subarray(0, Math.min(dump.chunkSize, dump.virtualSize - offset));
        for (let done = 0; done < chunk.length;) {
          const n = readSync(fd, chunk, done, chunk.length - done, offset + done);
          if (n === 0) return true; // the device is too short
          done += n;
        }
        const sha256 = listed.get(index);
        return sha256 === undefined
          ? !chunk.equals(zeroes.subarray(0, chunk.length))
          : createHash('sha256').update(chunk).digest('hex') !== sha256;
      });
  } finally {
    closeSync(fd);
  }
}
