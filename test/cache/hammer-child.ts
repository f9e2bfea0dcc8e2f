/**
 * One of the processes that share a cache directory in share.test.ts: reads at random, checks every byte, evicts,
 * until it is killed or told to end. argv: directory, seed. Prints "ready", then ends with a line of JSON, or fails.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { localFileOf, localOffset } from '../../src/blob/index.js';
import { BlobCache } from '../../src/cache/index.js';
import { silentLogger } from '../../src/log/index.js';
import { readSync } from 'node:fs';
import { BLOBS, BLOB_SIZE, CAPACITY, shareSource } from './share-blobs.js';
import { UNIT } from './cache-fixture.js';

const [dir = '', seed = '1'] = process.argv.slice(2);
let state = Number(seed);
const pick = (n: number): number => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};

const cache = await BlobCache.open({
  dir,
  capacity: CAPACITY,
  minFree: 0,
  unitSize: UNIT,
  commitIntervalMs: 5,
  maxRunBytes: 4 * UNIT,
  log: silentLogger,
});
process.stdout.write('ready\n');
let ending = false;
process.stdin.on('data', () => (ending = true)).unref();

async function user(): Promise<void> {
  while (!ending) {
    const { source, open } = shareSource(pick(BLOBS));
    const blob = await open(cache);
    const file = localFileOf(blob);
    for (let i = pick(60); i > 0; i--) {
      const offset = pick(BLOB_SIZE);
      const length = Math.min(1 + pick(3 * UNIT), BLOB_SIZE - offset);
      const into = new Uint8Array(length);
      const at = file ? localOffset(file, offset, length) : -1;
      // As an I/O worker does: look up, then read the file without asking again, within one turn of its loop.
      if (file && at >= 0) assert.equal(readSync(file.fd, into, 0, length, at), length);
      else await blob.read(offset, into);
      if (Buffer.compare(into, source.plain.subarray(offset, offset + length)) !== 0)
        throw new Error(
          `Wrong bytes: ${blob.name} [${offset}, ${offset + length}) ${at >= 0 ? 'local' : 'general'}`,
        );
      if (pick(50) === 0) await blob.refetch(offset, length);
      await sleep(pick(2));
    }
    await blob.close();
  }
}

await Promise.all([user(), user(), user()]);
await cache.close();
process.stdout.write(`${JSON.stringify(cache.stats)}\n`);
process.exit(0);
