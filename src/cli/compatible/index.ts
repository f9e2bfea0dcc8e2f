/**
 * The offline tools under the names and with the arguments that programs and scripts for overlaybd know. Behind them is
 * what is behind `obd create`, `obd commit` and so on. Exit status: 0, 2 for a wrong command line, 255 (resize: 1) for
 * everything else.
 */
import { Command } from 'commander';
import { runCommand } from '../program.js';
import { withoutTruthValues } from './options.js';

/**
 * The tools by name: what each adds to an empty command. Only the one that runs is loaded: they are run layer by layer,
 * and loading all costs as much as creating a layer.
 */
const TOOLS: Readonly<Record<string, () => Promise<(command: Command) => Command>>> = {
  'overlaybd-apply': async () => (await import('./apply.js')).applyCommand,
  'overlaybd-commit': async () => (await import('./commit.js')).commitCommand,
  'overlaybd-create': async () => (await import('./create.js')).createCommand,
  'overlaybd-merge': async () => (await import('./merge.js')).mergeCommand,
  'overlaybd-resize': async () => (await import('./resize.js')).resizeCommand,
  'overlaybd-zfile': async () => (await import('./zfile.js')).zfileCommand,
};

const FAILURE = 255;

/** Entry point of bin/overlaybd-create and its like. */
export async function main(argv: readonly string[], name: string): Promise<void> {
  const load = TOOLS[name];
  if (load === undefined) throw new TypeError(`No tool is called "${name}"`);
  const configure = await load();
  const command = configure(new Command(name)).showHelpAfterError(true).option('--verbose', 'has no effect');
  await runCommand(command, withoutTruthValues(command, argv), name === 'overlaybd-resize' ? 1 : FAILURE);
}
