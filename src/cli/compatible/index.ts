/**
 * The offline tools under the names and with the arguments that programs and scripts for overlaybd know. Behind them is
 * what is behind `obd create`, `obd commit` and so on. Exit status: 0, 2 for a wrong command line, 255 (resize: 1) for
 * everything else.
 */
import { Command } from 'commander';
import { runCommand } from '../program.js';
import { applyCommand } from './apply.js';
import { commitCommand } from './commit.js';
import { createCommand } from './create.js';
import { mergeCommand } from './merge.js';
import { withoutTruthValues } from './options.js';
import { resizeCommand } from './resize.js';
import { zfileCommand } from './zfile.js';

/** The tools by name: what each adds to an empty command. */
const TOOLS: Readonly<Record<string, (command: Command) => Command>> = {
  'overlaybd-apply': applyCommand,
  'overlaybd-commit': commitCommand,
  'overlaybd-create': createCommand,
  'overlaybd-merge': mergeCommand,
  'overlaybd-resize': resizeCommand,
  'overlaybd-zfile': zfileCommand,
};

const FAILURE = 255;

/** Entry point of bin/overlaybd-create and its like. */
export async function main(argv: readonly string[], name: string): Promise<void> {
  const configure = TOOLS[name];
  if (configure === undefined) throw new TypeError(`No tool is called "${name}"`);
  const command = configure(new Command(name)).showHelpAfterError(true).option('--verbose', 'has no effect');
  await runCommand(command, withoutTruthValues(command, argv), name === 'overlaybd-resize' ? 1 : FAILURE);
}
