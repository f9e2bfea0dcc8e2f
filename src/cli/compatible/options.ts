/** Options that several of the tools have. */
import { Option, type Command } from 'commander';
import { ConfigError } from '../../blob/index.js';

/** The error for what these tools do not have. */
export function unsupported(what: string, hint?: string): ConfigError {
  return new ConfigError(
    'OBD_CONFIG_VALUE',
    `${what} is not supported yet`,
    hint === undefined ? {} : { hint },
  );
}

/** What {@link addTurboOption} parses. */
export interface TurboFlags {
  readonly turboOCI?: boolean;
  readonly fastoci?: boolean;
}

/** Adds `--turboOCI` and its other name. */
export function addTurboOption(command: Command): Command {
  return command
    .option('--turboOCI', 'not supported')
    .addOption(new Option('--fastoci', 'not supported').hideHelp());
}

/** @throws ConfigError if a TurboOCI layer is asked for */
export function refuseTurbo(flags: TurboFlags): void {
  if (flags.turboOCI === true || flags.fastoci === true)
    throw unsupported(
      'Making TurboOCI layers (--turboOCI, --fastoci)',
      'Native layers do the same without the source image: leave the option out',
    );
}

/** Options without a value may be given one by `=`: `--x=true` is `--x`, `--x=false` is `--no-x` or nothing. */
export function withoutTruthValues(command: Command, argv: readonly string[]): string[] {
  return argv.flatMap((argument) => {
    const match = /^(--([A-Za-z][\w-]*))=(true|false|1|0)$/.exec(argument);
    const [, name = '', word = '', value = ''] = match ?? [];
    const option = command.options.find(({ long }) => long === name);
    if (option?.isBoolean() !== true) return [argument];
    if (value === 'true' || value === '1') return [name];
    const negated = `--no-${word}`;
    return command.options.some(({ long }) => long === negated) ? [negated] : [];
  });
}
