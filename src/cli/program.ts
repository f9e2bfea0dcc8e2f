import { CommanderError, type Command } from 'commander';
import { OverlaybdError, type ErrorCode } from '../blob/index.js';

/** Exit status by family of code; 1 is everything unforeseen, 2 is a wrong command line (as the shell's own). */
export function exitStatus(code: ErrorCode): number {
  if (code.startsWith('OBD_CONFIG_')) return 2;
  if (code.startsWith('OBD_FORMAT_')) return 3;
  if (code.startsWith('OBD_REGISTRY_')) return 4;
  if (code.startsWith('OBD_DEVICE_')) return 5;
  if (code.startsWith('OBD_CONVERT_')) return 6;
  if (code.startsWith('OBD_IO_') || code.startsWith('OBD_CACHE_')) return 7;
  if (code.startsWith('OBD_CONTAINERD_')) return 8;
  return 1;
}

/** One error for a person: the sentence, its causes indented, the hint, the code. */
export function describeError(error: unknown): string {
  const lines: string[] = [];
  let depth = 0;
  for (
    let e: unknown = error;
    e !== undefined && depth < 8;
    e = e instanceof Error ? e.cause : undefined, depth++
  ) {
    const text = e instanceof Error ? e.message || e.name : JSON.stringify(e);
    if (depth > 0 && lines.some((line) => line.includes(text))) continue;
    lines.push(`${depth === 0 ? 'Error: ' : '  because: '}${text}`);
  }
  if (error instanceof OverlaybdError) {
    if (error.hint !== undefined) lines.push(`  hint: ${error.hint}`);
    lines.push(`  code: ${error.code}`);
  } else if (error instanceof Error && process.env['OBD_DEBUG'] !== undefined) {
    lines.push(error.stack ?? '');
  }
  return lines.join('\n') + '\n';
}

/**
 * Runs a program to its end: parses `argv` (without node and script), reports failures on stderr and sets the exit
 * status. Never throws.
 * @param failure exit status of every failure but a wrong command line; default: {@link exitStatus} by its code.
 */
export async function runCommand(program: Command, argv: readonly string[], failure?: number): Promise<void> {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // A reader that has seen enough (`| head`) is no failure.
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  const strict = (command: Command): void => {
    command.exitOverride();
    command.commands.forEach(strict);
  };
  strict(program);
  try {
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2;
      return;
    }
    process.stderr.write(describeError(error));
    // A command that was stopped by a signal has set its own.
    process.exitCode ??= failure ?? (error instanceof OverlaybdError ? exitStatus(error.code) : 1);
  }
}
