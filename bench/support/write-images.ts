/**
 * Writes synthetic images for a benchmark that runs elsewhere: `node dist/bench/support/write-images.js DIR SEEN PACKING...`
 * makes `image-PACKING-4096.json` and its layers in DIR, with the paths that DIR has where it is SEEN, and `disk.raw`, a
 * plain file with the same kind of bytes.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { material, syntheticImage, type Packing } from './synthetic-image.js';

const SIZE = 256 << 20;
const [dir = '.', seen = dir, ...packings] = process.argv.slice(2);
for (const packing of packings as Packing[]) {
  const path = await syntheticImage(dir, packing, { size: SIZE, extents: 20_000 });
  writeFileSync(path, readFileSync(path, 'utf8').replaceAll(JSON.stringify(dir).slice(1, -1), seen));
}
const bytes = material();
for (let at = 0; at < SIZE; at += bytes.length)
  writeFileSync(join(dir, 'disk.raw'), bytes.subarray(0, Math.min(bytes.length, SIZE - at)), { flag: 'a' });
