import { makeSource, UNIT } from './cache-fixture.js';

/** What the processes of share.test.ts read. More than fits into the cache. */
export const BLOBS = 4;
export const BLOB_SIZE = 40 * UNIT - 77;
export const CAPACITY = 100 * UNIT;

const made = new Map<number, ReturnType<typeof makeSource>>();

/** The same for every process; made once, hashing is slow. */
export function shareSource(index: number): ReturnType<typeof makeSource> {
  let blob = made.get(index);
  if (!blob) made.set(index, (blob = makeSource(BLOB_SIZE, index + 1)));
  return blob;
}
