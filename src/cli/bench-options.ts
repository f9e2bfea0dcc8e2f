/** What the benchmarks of `obd bench` have in common: loads out of flags, images, and how a report is shown. */
import type { Command } from 'commander';
import {
  circumstances,
  loadRow,
  PATTERNS,
  tableOf,
  type Load,
  type Measured,
  type Pattern,
  type Report,
  type Row,
} from '../bench/index.js';
import { ConfigError } from '../blob/index.js';
import { ImageOpener, loadServiceConfig } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { serviceConfigPath } from './service-config-path.js';
import { formatTable, parseSize } from './units.js';

/** Flags of every benchmark. */
export interface ReportFlags {
  readonly json?: boolean;
}

/** Flags of those that make a load. */
export interface LoadFlags extends ReportFlags {
  readonly bs: string;
  readonly depth: string;
  readonly pattern: string;
  readonly writes: string;
  readonly seconds: string;
  readonly warmUp: string;
  readonly seed: string;
  readonly cold?: boolean;
  readonly runs: string;
}

/** Adds the flags of a report. */
export function addReportOptions(command: Command): Command {
  return command.option('--json', 'print the numbers, and with what they were measured, as JSON');
}

/** Adds the flags of a load. */
export function addLoadOptions(command: Command): Command {
  return addReportOptions(
    command
      .option('--bs <sizes>', 'bytes of an access; a list is measured one by one', '4k')
      .option('--depth <numbers>', 'accesses in flight; a list too', '1,32')
      .option('--pattern <names>', `${PATTERNS.join(', ')}; a list too`, 'random')
      .option('--writes <percent>', 'share of writes; they destroy what they meet', '0')
      .option('--seconds <n>', 'how long each is measured', '5')
      .option('--warm-up <n>', 'how long each runs before that', '1')
      .option('--seed <n>', 'another seed, other places', '1')
      .option('--runs <n>', 'measure each so often; the one with the most IOPS counts', '1')
      .option('--cold', 'empty the page cache first, and read nothing twice'),
  );
}

/** Parses a number. @throws ConfigError OBD_CONFIG_VALUE */
export function parseNumber(text: string, what: string, least: number, most: number): number {
  const value = text.trim() === '' ? NaN : Number(text);
  if (!(value >= least && value <= most))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `${what} is "${text}", expected a number from ${least} to ${most}`,
      {
        actual: text,
      },
    );
  return value;
}

function parsePattern(text: string): Pattern {
  const found = PATTERNS.find((name) => name === text.trim());
  if (found === undefined)
    throw new ConfigError('OBD_CONFIG_VALUE', `--pattern is "${text}", expected ${PATTERNS.join(', ')}`, {
      actual: text,
    });
  return found;
}

/** The loads that the flags mean: every pattern with every size with every depth. @throws ConfigError */
export function loadsOf(flags: LoadFlags): Load[] {
  const common = {
    writes: parseNumber(flags.writes, '--writes', 0, 100),
    seconds: parseNumber(flags.seconds, '--seconds', 0.01, 86400),
    warmUp: parseNumber(flags.warmUp, '--warm-up', 0, 86400),
    seed: parseNumber(flags.seed, '--seed', 0, 2 ** 32 - 1),
    cold: flags.cold === true,
  };
  const list = <T>(text: string, parse: (item: string) => T): T[] => text.split(',').map(parse);
  const lengths = list(flags.bs, (text) => parseSize(text, '--bs'));
  const depths = list(flags.depth, (text) => parseNumber(text, '--depth', 1, 1024));
  return list(flags.pattern, parsePattern).flatMap((pattern) =>
    lengths.flatMap((length) => depths.map((depth) => ({ length, depth, pattern, ...common }))),
  );
}

/** Measures a load as often as the flags say, and keeps the best: other work on a machine only ever takes away. */
export async function bestOf(
  load: Load,
  flags: LoadFlags,
  measure: (load: Load) => Promise<Measured>,
): Promise<Row> {
  const runs = parseNumber(flags.runs, '--runs', 1, 1000);
  let best: Measured | undefined;
  for (let run = 0; run < runs; run++) {
    const next = await measure(run === 0 ? load : { ...load, seed: load.seed + run });
    if (best === undefined || next.operations / next.seconds > best.operations / best.seconds) best = next;
  }
  if (best === undefined) throw new RangeError('No run'); // --runs is at least 1
  return loadRow(load, best);
}

/** Prints a report, for people or as JSON. */
export function printReport(what: string, subject: string, rows: readonly Row[], flags: ReportFlags): void {
  const report: Report = { what, subject, ...circumstances(), rows };
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify(report, undefined, 1)}\n`);
    return;
  }
  const { version, commit, node, machine, loadAverage } = report;
  process.stdout.write(
    `${formatTable(tableOf(rows))}\n${subject}; obd ${version}${commit === undefined ? '' : ` (${commit})`}, Node.js ${node}, ` +
      `${machine.cpus} x ${machine.cpu}, load average ${loadAverage}\n`,
  );
}

/** Runs something with the means to open images, as the service has them. */
export async function withOpener<T>(
  serviceConfig: string | undefined,
  work: (opener: ImageOpener) => Promise<T>,
): Promise<T> {
  const log = makeLogger('warn');
  const opener = new ImageOpener(await loadServiceConfig(await serviceConfigPath(serviceConfig), log), log);
  try {
    return await work(opener);
  } finally {
    await opener.close();
  }
}
