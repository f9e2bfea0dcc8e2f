/**
 * Runs the compiled tests: `run-tests unit [NAME...]` is everything without root, `run-tests system [NAME...]` is
 * test/system and test/vm, `run-tests all [NAME...]` is both, one after the other, with one summary at the end. A NAME
 * picks the files whose path contains it.
 */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

type Kind = 'unit' | 'system';

/** How the test runner is started for a kind of test. */
const SETTINGS: Readonly<Record<Kind, readonly string[]>> = {
  unit: ['--test-concurrency=2', '--test-timeout=300000'],
  // System tests share the machine's devices, mounts and ports: one file at a time.
  // The time is for a whole file: a dozen machines, each with a limit of its own.
  system: ['--test-concurrency=1', '--test-timeout=2700000'],
};

const [asked = 'unit', ...names] = process.argv.slice(2);
if (asked !== 'unit' && asked !== 'system' && asked !== 'all') {
  process.stderr.write(`Cannot run "${asked}" tests: expected unit, system or all\n`);
  process.exit(2);
}
const root = join(import.meta.dirname, '..', 'test');

function testFiles(kind: Kind): string[] {
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.js') && /^(system|vm)\//.test(file) === (kind === 'system'))
    .filter((file) => names.length === 0 || names.some((name) => file.includes(name)))
    .sort()
    .map((file) => join(root, file));
}

/** Runs the files, passes the runner's output on, adds the numbers of its summary to `totals`; returns its status. */
async function runFiles(kind: Kind, files: string[], totals: Map<string, number>): Promise<number> {
  const reporter = process.stdout.isTTY ? 'spec' : 'tap';
  const child = spawn(
    process.execPath,
    ['--test', `--test-reporter=${reporter}`, ...SETTINGS[kind], ...files],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const stop = (signal: NodeJS.Signals): void => {
    child.kill(signal);
  };
  process.on('SIGTERM', stop).on('SIGINT', stop);
  const ended = new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => {
      resolve(code ?? 1);
    });
  });
  for await (const line of createInterface({ input: child.stdout })) {
    process.stdout.write(`${line}\n`);
    const [, name, value] = /^(?:#|ℹ) (\w+) ([\d.]+)$/.exec(line) ?? [];
    if (name !== undefined) totals.set(name, (totals.get(name) ?? 0) + Number(value));
  }
  process.off('SIGTERM', stop).off('SIGINT', stop);
  return ended;
}

const kinds: Kind[] = asked === 'all' ? ['unit', 'system'] : [asked];
const work = kinds.map((kind) => ({ kind, files: testFiles(kind) })).filter(({ files }) => files.length > 0);
if (work.length === 0) {
  process.stderr.write(`No ${asked} test matches ${names.join(', ') || 'anything'}\n`);
  process.exit(1);
}
const totals = new Map<string, number>();
for (const { kind, files } of work) {
  const status = await runFiles(kind, files, totals);
  if (status !== 0) process.exitCode = status;
}
// In the words of the runner itself, so that whoever reads its summaries reads this one.
if (work.length > 1) {
  process.stdout.write('# unit and system tests together\n');
  for (const [name, value] of totals) process.stdout.write(`# ${name} ${String(Math.round(value))}\n`);
}
