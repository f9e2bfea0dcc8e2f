/**
 * From a layer tar to a committed blob by the tools that scripts for overlaybd call, each a program of its own: create,
 * apply, commit. Prints reports as JSON, one for each algorithm.
 *
 *   node dist/bench/convert/tools.js TAR [RUNS]
 *
 * Work files are in /dev/shm, so that no disk is measured. The rate is that of apply and commit together, as the
 * reference's figures are.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { circumstances, type Report, type Row } from '../../src/bench/index.js';
import { packageRoot } from '../../src/native/index.js';

const [tar, runs = '3'] = process.argv.slice(2);
if (tar === undefined) throw new Error('Usage: node dist/bench/convert/tools.js TAR [RUNS]');

const dir = mkdtempSync('/dev/shm/obd-bench-tools-');
const upper = { data: join(dir, 'data'), index: join(dir, 'index') };
const files = [upper.data, upper.index];
const config = join(dir, 'config.json');
const blob = join(dir, 'blob');

/** Seconds that a tool took. */
function seconds(tool: string, ...args: readonly string[]): number {
  const began = performance.now();
  execFileSync(process.execPath, [join(packageRoot, 'bin', tool), ...args], { stdio: 'ignore' });
  return (performance.now() - began) / 1000;
}

function once(input: string, algorithm: string, name: string): Row {
  for (const path of [...files, blob]) rmSync(path, { force: true });
  const createS = seconds('overlaybd-create', '--mkfs', ...files, '64');
  const applyS = seconds('overlaybd-apply', input, config);
  const commitS = seconds('overlaybd-commit', '-z', '--algorithm', algorithm, ...files, blob);
  const totalS = applyS + commitS;
  const mbPerSecond = statSync(input).size / 1e6 / totalS;
  return { name, createS, applyS, commitS, totalS, mbPerSecond, blobMib: statSync(blob).size / 2 ** 20 };
}

try {
  writeFileSync(config, JSON.stringify({ lowers: [], upper, resultFile: '' }));
  const reports = ['lz4', 'zstd'].map((algorithm): Report => {
    const rows = Array.from({ length: Number(runs) }, (_, i) => once(tar, algorithm, `run ${i + 1}`));
    return { what: 'convert', subject: `${algorithm}, by the tools`, ...circumstances(), rows };
  });
  process.stdout.write(JSON.stringify(reports));
} finally {
  rmSync(dir, { recursive: true });
}
