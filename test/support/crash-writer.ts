/**
 * A process that writes to a writable layer until it is killed: `node crash-writer.js DIR SEED [compact]`. Each round is
 * four operations at once on separate ranges; after a round has settled its number goes to stdout, unbuffered. With
 * `compact` the layer is compacted all the time.
 */
import { writeSync } from 'node:fs';
import { join } from 'node:path';
import { SECTOR } from '../../src/blob/index.js';
import { openWritableLayer, WritableLayerStack } from '../../src/lsmt/index.js';
import { memoryLayer } from './layers.js';

/** Sectors of the disk. */
export const CRASH_SECTORS = 256;
const LANES = 4;

/** One write, or discard where `fill` is 0. */
export interface CrashOp {
  readonly start: number;
  readonly length: number;
  readonly fill: number;
}

/** The operations of a round: the same for everybody who asks. */
export function crashRound(seed: number, round: number): CrashOp[] {
  let state = (Math.imul(seed + 1, 2654435761) ^ Math.imul(round + 1, 40503)) >>> 0;
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const width = CRASH_SECTORS / LANES;
  return Array.from({ length: LANES }, (_, lane) => {
    const start = random(width);
    return {
      start: lane * width + start,
      length: 1 + random(width - start),
      fill: random(4) === 0 ? 0 : 1 + random(255),
    };
  });
}

/** The layer below: something to hide, and something that must show. */
export function crashLower() {
  return memoryLayer([{ start: 0, length: 200, fill: 0xaa }], CRASH_SECTORS * SECTOR);
}

/** The files of the layer. */
export function crashPaths(dir: string): { data: string; index: string } {
  return { data: join(dir, 'data'), index: join(dir, 'index') };
}

const [, script, dir, seed, compact] = process.argv;
if (script?.endsWith('crash-writer.js') === true && dir !== undefined && seed !== undefined) {
  const disk = await WritableLayerStack.open([await crashLower()], await openWritableLayer(crashPaths(dir)));
  if (compact !== undefined)
    void (async () => {
      for (;;) await disk.compact({ batch: 4096 });
    })();
  for (let round = 0; ; round++) {
    const work = crashRound(Number(seed), round).map(({ start, length, fill }) =>
      fill === 0
        ? disk.discard(start * SECTOR, length * SECTOR)
        : disk.write(start * SECTOR, new Uint8Array(length * SECTOR).fill(fill)),
    );
    await Promise.all(work);
    if (round % 7 === 0) await disk.flush();
    writeSync(1, `${round}\n`);
  }
}
