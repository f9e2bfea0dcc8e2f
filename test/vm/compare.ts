/**
 * Program for scripts inside a machine: compares with the golden images and exits 1 with what differs.
 *
 *     compare device DEVICE DUMP.json
 *     compare tree DIRECTORY EXPECTED.json AFTER-LAYER
 */
import { differingChunks, readDeviceDump } from '../support/device-dump.js';
import { compareTree, readExpectedTree } from '../support/mounted-tree.js';

const [kind, actual, expected, layer] = process.argv.slice(2);
let differences: string[];
if (kind === 'device' && actual !== undefined && expected !== undefined)
  differences = differingChunks(actual, readDeviceDump(expected)).map((index) => `chunk ${String(index)}`);
else if (kind === 'tree' && actual !== undefined && expected !== undefined)
  differences = compareTree(actual, readExpectedTree(expected, Number(layer))).map(
    ({ path, field, expected, actual }) =>
      `${path}: ${field} is ${String(actual)}, expected ${String(expected)}`,
  );
else
  throw new Error(
    'Usage: compare device DEVICE DUMP.json | compare tree DIRECTORY EXPECTED.json AFTER-LAYER',
  );
for (const difference of differences.slice(0, 50)) process.stdout.write(`${actual}: ${difference}\n`);
if (differences.length > 0) {
  process.stdout.write(`${actual}: ${String(differences.length)} differences from ${expected}\n`);
  process.exitCode = 1;
}
