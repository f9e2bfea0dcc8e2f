/** The measurements that are kept in bench/results. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Report, Row } from '../../src/bench/index.js';
import { packageRoot } from '../../src/native/index.js';

/** Directory of the results. */
export const RESULTS = join(packageRoot, 'bench', 'results');

/** Parts of `bench/run`, each a file of reports. */
export type Section =
  | 'ring'
  | 'gzip'
  | 'tail'
  | 'cold'
  | 'open'
  | 'index'
  | 'cache'
  | 'convert'
  | 'attach'
  | 'fuse'
  | 'tcmu'
  | 'cold-start';

/** How the names of rows begin that count collections (worker-garbage.ts). */
export const GARBAGE = "I/O workers' garbage collections";

/** The reports of a section; none if it was never run. */
export function readResults(section: Section): readonly Report[] {
  const path = join(RESULTS, `${section}.json`);
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Report[]) : [];
}

/** A row of a report by the beginning of its name. */
export function rowOf(reports: readonly Report[], subject: string, name: string): Row | undefined {
  return reports.find((report) => report.subject === subject)?.rows.find((row) => row.name.startsWith(name));
}

/** A number of a row. */
export function numberOf(row: Row | undefined, key: string): number | undefined {
  const value = row?.[key];
  return typeof value === 'number' ? value : undefined;
}
