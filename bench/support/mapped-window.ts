/**
 * Where an image has most data: `node dist/bench/support/mapped-window.js IMAGE MIB` reads what `obd inspect --mapping --json`
 * says of it, and prints the first MiB of the window of MIB MiB that holds the most, and how many percent of it are mapped.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

const obd = join(import.meta.dirname, '..', '..', '..', 'bin', 'obd');
const MIB_SECTORS = (1 << 20) / 512;
const [image = '', mib = ''] = process.argv.slice(2);
const window = Number(mib) * MIB_SECTORS;
const inspected = JSON.parse(
  execFileSync(obd, ['inspect', '--mapping', '--json', image], { encoding: 'utf8', maxBuffer: 1 << 30 }),
) as {
  /** Each: first sector, sectors, number of the layer, where in it. */
  stack: { virtualSize: number; map: [number, number, number, number][] };
};
const { map } = inspected.stack;
/** Mapped sectors in a window that begins at `from`. */
const mapped = (from: number): number =>
  map.reduce(
    (sum, [first, count]) =>
      sum + Math.max(0, Math.min(first + count, from + window) - Math.max(first, from)),
    0,
  );
let best = { from: 0, sectors: mapped(0) };
for (const [first] of map) {
  const from = first - (first % MIB_SECTORS);
  if (from + window > inspected.stack.virtualSize / 512) continue;
  const sectors = mapped(from);
  if (sectors > best.sectors) best = { from, sectors };
}
process.stdout.write(`${best.from / MIB_SECTORS} ${((best.sectors / window) * 100).toFixed(1)}\n`);
