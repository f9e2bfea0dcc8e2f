import { open } from 'node:fs/promises';
import { ChunkRing } from './chunk-ring.js';

/** Bytes read at once: each read costs waking a thread. */
const STEP = 1 << 20;

/**
 * A file from its beginning to its end, the next piece read while one is used. Memory: four thirds of `kept`, and 15 MiB.
 * @param kept bytes that may be asked for before a chunk is no longer used by whoever else has it.
 * @throws a system error
 */
export async function* fileChunks(path: string, kept = 0): AsyncGenerator<Uint8Array, void, undefined> {
  const file = await open(path);
  // Beside what is kept: the chunk that is used, and the one that is read.
  const ring = new ChunkRing(STEP, kept + 2 * STEP);
  const next = async (): Promise<Uint8Array> => {
    const { bytesRead } = await file.read(ring.room(), 0, STEP);
    return ring.take(bytesRead);
  };
  let ahead = next();
  try {
    for (;;) {
      const chunk = await ahead;
      if (chunk.byteLength === 0) return;
      ahead = next();
      ahead.catch(() => undefined); // Reported where it is awaited, if it is.
      yield chunk;
    }
  } finally {
    await ahead.catch(() => undefined);
    await file.close();
  }
}
