/**
 * Runs the compiled tests: `run-tests unit [NAME...]` is everything without root, `run-tests system [NAME...]` is
 * test/system. A NAME picks the files whose path contains it.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const [kind = 'unit', ...names] = process.argv.slice(2);
const root = join(import.meta.dirname, '..', 'test');
const system = (file: string): boolean => /^(system|vm)\//.test(file);
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.js') && system(file) === (kind === 'system'))
  .filter((file) => names.length === 0 || names.some((name) => file.includes(name)))
  .sort()
  .map((file) => join(root, file));
if (files.length === 0) {
  process.stderr.write(`No ${kind} test matches ${names.join(', ') || 'anything'}\n`);
  process.exit(1);
}
// System tests share the machine's devices, mounts and ports: one file at a time.
const concurrency = kind === 'system' ? 1 : 2;
const run = spawnSync(process.execPath, ['--test', `--test-concurrency=${concurrency}`, ...files], {
  stdio: 'inherit',
});
process.exitCode = run.status ?? 1;
