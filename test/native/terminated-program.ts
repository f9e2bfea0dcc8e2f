/**
 * A program for terminate.test.ts: `KIND DIR ROUNDS`. Starts threads that keep native calls of one kind in flight, and
 * terminates each. Prints how many were terminated.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, threadId, Worker, workerData } from 'node:worker_threads';
import { deflateRawSync } from 'node:zlib';
import * as native from '../../src/native/index.js';

const PLAIN = new Uint8Array(1 << 20).fill(7);
let files = 0;

async function withFile(dir: string, call: (fd: number) => Promise<unknown>): Promise<void> {
  const fd = openSync(join(dir, `${threadId}-${files++}`), 'w+');
  try {
    writeSync(fd, PLAIN, 0, PLAIN.byteLength, 0);
    await call(fd);
  } finally {
    closeSync(fd);
  }
}

/** One round of calls, to be repeated. */
const kinds: Record<string, (dir: string) => Promise<void>> = {
  async ext4(dir) {
    const image = await native.Ext4Image.format(dir, 1 << 28);
    await image.flush();
    await image.changes();
    image.close();
  },
  digest: (dir) =>
    withFile(dir, async (fd) => {
      const digest = new native.StreamDigest('sha256');
      await digest.update(PLAIN);
      await digest.end();
      await native.digestOfFile(fd, 0, PLAIN.byteLength);
    }),
  async pack() {
    await native.packBlocks(native.Codec.LZ4, 4096, PLAIN);
  },
  zfile: (dir) =>
    withFile(dir, async (fd) => {
      const stream = new native.ZFileStream(fd, 0, native.Codec.LZ4, 4096);
      await stream.append(PLAIN);
      await stream.finish();
      stream.close();
    }),
  file: (dir) =>
    withFile(dir, async (fd) => {
      await Promise.all([0, 4096, 8192].map((offset) => native.punchHole(fd, offset, 4096)));
      await native.copyFileRange({ fd, offset: 65536 }, { fd, offset: 1 << 20 }, 65536);
    }),
  async inflate() {
    const inflater = new native.Inflater();
    inflater.start(0, 0, new Uint8Array());
    await inflater.run(deflateRawSync(PLAIN), new Uint8Array(PLAIN.byteLength));
  },
  async blocking(dir) {
    await Promise.all([native.blocking.readdir(dir), native.blocking.readdir('/proc')]);
  },
};

const [kind = '', dir = '', rounds = ''] = isMainThread ? process.argv.slice(2) : (workerData as string[]);
const call = kinds[kind];
if (call === undefined)
  throw new TypeError(`Expected one of ${Object.keys(kinds).join(', ')}, got "${kind}"`);

if (isMainThread) {
  let terminated = 0;
  for (let n = 0; n < Number(rounds); n++) {
    const thread = new Worker(new URL(import.meta.url), { workerData: [kind, dir] });
    await new Promise((resolve, reject) => {
      thread.once('message', resolve);
      thread.once('error', reject);
    });
    // At another point of the calls each time.
    await sleep(n % 8);
    await thread.terminate();
    terminated++;
  }
  process.stdout.write(String(terminated));
} else {
  // Several at once, so that a call is in flight at any time.
  const repeat = async (): Promise<never> => {
    for (;;) {
      await call(dir);
      parentPort?.postMessage('did one');
    }
  };
  await Promise.all([repeat(), repeat()]);
}
