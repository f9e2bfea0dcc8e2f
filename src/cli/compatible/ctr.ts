/**
 * `ctr` as the reference ships it: containerd's own, with `rpull` and `obdconv` added. Those two are ours; whatever else
 * is asked for is passed to the `ctr` on PATH as it came.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, realpathSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { Command, Option } from 'commander';
import { ConfigError } from '../../blob/index.js';
import { describeError, runCommand } from '../program.js';

/** What stands before the subcommand. */
interface Globals {
  /** `--address` and `--namespace`, for commands of ours. */
  readonly place: readonly string[];
  /** The subcommand with its arguments. */
  readonly rest: readonly string[];
}

const OURS: Readonly<Record<string, (globals: Globals) => Promise<void>>> = {
  rpull: async ({ place, rest }) => {
    const { main: obd } = await import('../obd.js');
    await obd([...rest.slice(0, 1), ...place, ...rest.slice(1)]);
  },
  obdconv: async ({ place, rest }) => {
    await runCommand(obdconvCommand(place), rest.slice(1));
  },
  'record-trace': async ({ rest }) => {
    const { main: obd } = await import('../obd.js');
    await obd(rest);
  },
};

/** Entry point of bin/overlaybd-ctr. */
export async function main(argv: readonly string[]): Promise<void> {
  try {
    const globals = parseGlobals(argv);
    const ours = OURS[globals.rest[0] ?? ''];
    if (ours === undefined) await passOn(argv);
    else await ours(globals);
  } catch (error) {
    process.stderr.write(describeError(error));
    process.exitCode = 1;
  }
}

const VALUES: Readonly<Record<string, 'address' | 'namespace' | 'other'>> = {
  a: 'address',
  address: 'address',
  n: 'namespace',
  namespace: 'namespace',
  timeout: 'other',
  'connect-timeout': 'other',
};

/** ctr's options have one dash or two, and their values stand behind "=" or next. */
function parseGlobals(argv: readonly string[]): Globals {
  const place: string[] = [];
  let at = 0;
  for (; at < argv.length; at++) {
    const [, name = '', given] = /^--?([a-z][a-z-]*)(?:=(.*))?$/s.exec(argv[at] ?? '') ?? [];
    if (name === '') break;
    const kind = VALUES[name];
    if (kind === undefined) continue; // a switch
    const value = given ?? argv[++at] ?? '';
    if (kind !== 'other') place.push(`--${kind}`, value);
  }
  return { place, rest: argv.slice(at) };
}

/** Conversion within containerd: both names are images of its store. */
function obdconvCommand(place: readonly string[]): Command {
  return new Command('ctr obdconv')
    .showHelpAfterError('(see --help)')
    .description("Convert an image of containerd's into an overlaybd image.")
    .argument('<source>', 'name of the image')
    .argument('<target>', 'name of the new image')
    .option('--fstype <name>', 'file system')
    .option('--algorithm <name>', 'compression of the layers: lz4 or zstd')
    .option('--bs <KiB>', 'compression block: 4, 8, 16, 32 or 64')
    .option('--vsize <GiB>', 'size of the virtual disk')
    .addOption(new Option('--dbstr <dsn>').hideHelp())
    .action(async (source: string, target: string, options: Readonly<Record<string, string>>) => {
      if ((options['dbstr'] ?? '') !== '')
        throw new ConfigError('OBD_CONFIG_VALUE', '--dbstr is not supported: there is no MySQL client here', {
          hint: 'obdconv remembers by itself what it has converted: docs/conversion.md',
        });
      const { main: convert } = await import('../convert.js');
      const passed = Object.entries(options).flatMap(([name, value]) =>
        name === 'dbstr' ? [] : [`--${name}`, value],
      );
      await convert([...place, ...passed, `containerd:${source}`, `containerd:${target}`]);
    });
}

/** Runs containerd's ctr. Its exit status becomes ours, and signals from the terminal reach it without us. */
async function passOn(argv: readonly string[]): Promise<void> {
  const ignore = (): void => undefined;
  process.on('SIGINT', ignore).on('SIGQUIT', ignore);
  const child = spawn(findCtr(), argv, { stdio: 'inherit' });
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  const [status, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  if (signal !== null) {
    process.off('SIGINT', ignore).off('SIGQUIT', ignore).removeAllListeners('SIGTERM');
    process.kill(process.pid, signal);
  }
  process.exitCode = status ?? 1;
}

/** The first `ctr` on PATH that is not this program under that name. */
function findCtr(): string {
  const own = realpathSync(process.argv[1] ?? '');
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(directory === '' ? '.' : directory, 'ctr');
    try {
      accessSync(path, constants.X_OK);
      if (realpathSync(path) !== own) return path;
    } catch {
      continue;
    }
  }
  throw new ConfigError('OBD_CONFIG_NOT_FOUND', "Cannot find containerd's ctr on PATH", {
    hint: 'rpull and obdconv work without it; everything else is its own (package containerd)',
  });
}
