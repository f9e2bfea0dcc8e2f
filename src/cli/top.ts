/** `obd top`: what devices do, live. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { parseNumber } from './bench-options.js';
import { addServiceOptions, serviceAddress, type ServiceAccessOptions } from './service-access.js';
import { topRows, type TopRow } from './top-rows.js';
import { formatShare, formatSize, formatTable } from './units.js';

interface TopFlags extends ServiceAccessOptions {
  readonly interval: string;
  readonly once?: boolean;
  readonly json?: boolean;
}

const HEADER = 'ID DEVICE STATE R/s W/s READ/s WRITE/s P50 P99 HIT QUEUE FETCH/s FETCHED DOWNLOAD'.split(' ');

/** The alternate screen, without a cursor; and back. */
const ENTER = '\x1b[?1049h\x1b[?25l';
const LEAVE = '\x1b[?25h\x1b[?1049l';
const HOME = '\x1b[H';
const CLEAR_LINE = '\x1b[K';
const CLEAR_BELOW = '\x1b[J';

function latency(us: number | undefined): string {
  if (us === undefined) return '-';
  if (us < 1000) return `${us.toFixed(us < 10 ? 1 : 0)} us`;
  return us < 1e6 ? `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms` : `${(us / 1e6).toFixed(1)} s`;
}

function cells(row: TopRow): string[] {
  return [
    row.id,
    row.devicePath ?? '-',
    row.state,
    row.readIops.toFixed(0),
    row.writeIops.toFixed(0),
    formatSize(Math.round(row.readBytesPerSecond)),
    formatSize(Math.round(row.writeBytesPerSecond)),
    latency(row.p50Us),
    latency(row.p99Us),
    row.hitRatio === undefined ? '-' : formatShare(row.hitRatio, 1),
    String(row.inFlight),
    formatSize(Math.round(row.fetchedBytesPerSecond)),
    formatSize(row.bytesFetched),
    row.download ?? '-',
  ];
}

/** A table: trouble first, then the busiest. */
function table(rows: readonly TopRow[]): string {
  const load = (row: TopRow): number => row.readIops + row.writeIops;
  const trouble = (row: TopRow): number => (row.state === 'ready' ? 0 : 1);
  const sorted = [...rows].sort(
    (a, b) => trouble(b) - trouble(a) || load(b) - load(a) || (a.id < b.id ? -1 : 1),
  );
  const reasons = sorted.flatMap(({ id, reason }) => (reason === undefined ? [] : [`${id}: ${reason}\n`]));
  return formatTable([HEADER, ...sorted.map(cells)]) + reasons.join('');
}

/** Adds `top` to the program. */
export function addTopCommand(program: Command): void {
  addServiceOptions(program.command('top').description('Show what devices do, live.'))
    .option('--interval <seconds>', 'time between two looks, 0.2 to 3600', '2')
    .option('--once', 'one interval, then end')
    .option('--json', 'one line of JSON per interval')
    .addHelpText(
      'after',
      '\nHIT is the share of reads whose bytes were on local disk, QUEUE what is in flight, P50 and P99 are of reads and writes\nin the interval. In a terminal q ends it; elsewhere tables follow each other.\n\nExample:\n  obd top --once --json\n',
    )
    .action(topCommand);
}

async function topCommand(flags: TopFlags): Promise<void> {
  const interval = parseNumber(flags.interval, '--interval', 0.2, 3600) * 1000;
  const { client } = await serviceAddress(flags);
  let before = await client.traffic();
  const stop = new AbortController();
  const live = process.stdout.isTTY && flags.json !== true && flags.once !== true;
  const screen = live ? new Screen(stop) : undefined;
  try {
    screen?.show('Measuring ...\n');
    do {
      try {
        await sleep(interval, undefined, { signal: stop.signal });
      } catch {
        return; // told to stop
      }
      const now = await client.traffic();
      const rows = topRows(before, now);
      before = now;
      if (flags.json === true)
        process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), devices: rows })}\n`);
      else if (screen === undefined) process.stdout.write(`${table(rows)}${flags.once === true ? '' : '\n'}`);
      else
        screen.show(`obd top  ${new Date().toLocaleTimeString()}  ${rows.length} devices\n\n${table(rows)}`);
    } while (flags.once !== true);
  } finally {
    screen?.close();
  }
}

/** The terminal while `obd top` has it. Whatever ends the program gives it back. */
class Screen {
  readonly #stop: AbortController;
  readonly #leave = (): void => {
    process.stdout.write(LEAVE);
  };
  readonly #end = (): void => {
    this.#stop.abort();
  };
  readonly #key = (key: Buffer): void => {
    // In raw mode Ctrl-C is a byte.
    if (key.includes('q') || key.includes('\x03')) this.#stop.abort();
  };
  readonly #redraw = (): void => {
    this.show(this.#text);
  };
  #text = '';

  constructor(stop: AbortController) {
    this.#stop = stop;
    process.stdout.write(ENTER);
    process.on('exit', this.#leave);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, this.#end);
    process.stdout.on('resize', this.#redraw);
    if (process.stdin.isTTY) {
      process.stdin.setRawMode(true);
      process.stdin.on('data', this.#key).resume();
    }
  }

  /** Shows what fits. */
  show(text: string): void {
    this.#text = text;
    const { rows, columns } = process.stdout;
    const lines = text.trimEnd().split('\n');
    const fitting = lines.slice(0, Math.max(1, rows - 1)).map((line) => line.slice(0, columns) + CLEAR_LINE);
    process.stdout.write(HOME + fitting.join('\r\n') + CLEAR_BELOW);
  }

  close(): void {
    process.off('exit', this.#leave);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, this.#end);
    process.stdout.off('resize', this.#redraw);
    if (process.stdin.isTTY) {
      process.stdin.setRawMode(false);
      process.stdin.off('data', this.#key).pause();
    }
    this.#leave();
  }
}
