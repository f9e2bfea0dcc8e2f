import { closeSync, fstatSync, openSync } from 'node:fs';
import { PlainServer } from '../native/index.js';
import { placesOf, type Load, type Measured } from './load.js';
import { newRing, ringLoad } from './ring-load.js';

/**
 * The same load on the same kind of ring, served from a plain file by a loop that is all C: what an I/O worker with
 * JavaScript in it is held against, in the same run.
 * @param path a file of at least a block.
 * @throws a system error.
 */
export async function yardstickLoad(path: string, load: Load): Promise<Measured> {
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    const ring = newRing(size - (size % 4096), load);
    const server = new PlainServer(ring.handle, fd);
    try {
      return await ringLoad(ring, placesOf({}, size - (size % 4096), load), load);
    } finally {
      server.close();
      ring.close();
    }
  } finally {
    closeSync(fd);
  }
}
