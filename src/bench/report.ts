/** What a benchmark says: rows of numbers, and on which machine, with which Node.js and commit they came about. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../native/index.js';

/**
 * One line of a table. The names of the numbers end in their unit: `Us`, `Ms`, `Ns`, `S`, `Kib`, `Mib`, `PerSecond`;
 * `iops` and `cpu` (processors kept busy) have none.
 */
export interface Row {
  readonly name: string;
  readonly [key: string]: number | string;
}

/** Where and with what something was measured. */
export interface Circumstances {
  readonly date: string;
  readonly version: string;
  /** Of the checkout; `+` behind it: with changes of its own. Undefined in an installed package. */
  readonly commit: string | undefined;
  readonly node: string;
  readonly machine: {
    readonly cpu: string;
    readonly cpus: number;
    readonly memoryMib: number;
    readonly kernel: string;
  };
  /** When the report was made; above the number of processors, others were working too. */
  readonly loadAverage: number;
}

/** A finished benchmark, as `--json` prints it. */
export interface Report extends Circumstances {
  /** The benchmark, such as `ring`. */
  readonly what: string;
  /** The image, device or file. */
  readonly subject: string;
  readonly rows: readonly Row[];
}

const TITLES: Readonly<Record<string, string>> = {
  name: '',
  iops: 'IOPS',
  mbPerSecond: 'MB/S',
  p50Us: 'P50 us',
  p99Us: 'P99 us',
  p999Us: 'P99.9 us',
  cpu: 'CPU',
};

function title(key: string): string {
  const known = TITLES[key];
  if (known !== undefined) return known;
  const [, words = key, unit = ''] = /^(.*?)(Us|Ms|Ns|S|Kib|Mib|PerSecond)?$/.exec(key) ?? [];
  const spaced = words.replace(/([A-Z])/g, ' $1').toUpperCase();
  const units: Readonly<Record<string, string>> = { Kib: 'KiB', Mib: 'MiB', PerSecond: '/s', '': '' };
  return `${spaced} ${units[unit] ?? unit.toLowerCase()}`.trim();
}

/** A number for a person: three figures, no exponent. */
export function formatNumber(value: number): string {
  if (value === 0) return '0';
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 3));
}

/** The rows as cells, with a line of titles: every number that any row has. */
export function tableOf(rows: readonly Row[]): string[][] {
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cell = (value: number | string | undefined): string =>
    typeof value === 'number' ? formatNumber(value) : (value ?? '-');
  return [keys.map(title), ...rows.map((row) => keys.map((key) => cell(row[key])))];
}

function commitOf(root: string): string | undefined {
  const git = (...args: string[]): string =>
    execFileSync('git', ['-C', root, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    if (git('rev-parse', '--show-toplevel').trim() !== root) return undefined;
    // What the benchmarks themselves write does not change what they measure.
    const changed = git(
      'status',
      '--porcelain',
      '--untracked-files=no',
      '--',
      '.',
      ':!bench/results',
      ':!docs',
    );
    return `${git('rev-parse', '--short', 'HEAD').trim()}${changed === '' ? '' : '+'}`;
  } catch {
    return undefined; // no git, or no checkout
  }
}

/** Here and now. */
export function circumstances(): Circumstances {
  const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as {
    version: string;
  };
  return {
    date: new Date().toISOString(),
    version,
    commit: commitOf(packageRoot),
    node: process.version,
    machine: {
      cpu: cpus()[0]?.model.trim() ?? 'unknown',
      cpus: cpus().length,
      memoryMib: Math.round(totalmem() / 2 ** 20),
      kernel: release(),
    },
    loadAverage: Math.round((loadavg()[0] ?? 0) * 100) / 100,
  };
}

/** The value below which `share` of the sorted values lie; 0 of none. */
export function percentile(sorted: ArrayLike<number>, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}
