import { Command } from 'commander';
import { addConvertCommand } from './convert.js';
import { addExportCommand } from './export.js';
import { addInspectCommand } from './inspect.js';
import { addAttachCommand } from './attach.js';
import { addDetachCommand } from './detach.js';
import { addListCommand } from './list.js';
import { addServiceCommand } from './tcmu-service.js';
import { addMountCommand, addUmountCommand } from './mount.js';
import { addNbdCommand } from './nbd.js';
import { addCommitCommand } from './commit.js';
import { addCreateCommand } from './create.js';
import { addMergeCommand } from './merge.js';
import { addZFileCommand } from './zfile.js';
import { runCommand } from './program.js';
import { addRegistryCommand } from './registry.js';
import { addVerifyCommand } from './verify.js';

/**
 * The one program. Each command is a file beside this one that exports a function taking the program and adding
 * itself; add the call here.
 */
export function obdProgram(): Command {
  const program = new Command('obd')
    .description('Container images as block devices that work at once (overlaybd).')
    .showHelpAfterError('(see --help)')
    .configureHelp({ sortSubcommands: true });
  addConvertCommand(program);
  addExportCommand(program);
  addInspectCommand(program);
  addNbdCommand(program);
  addRegistryCommand(program);
  addVerifyCommand(program);
  addAttachCommand(program);
  addDetachCommand(program);
  addListCommand(program);
  addMountCommand(program);
  addUmountCommand(program);
  addServiceCommand(program);
  addCommitCommand(program);
  addCreateCommand(program);
  addMergeCommand(program);
  addZFileCommand(program);
  return program;
}

/** Entry point of bin/obd. */
export async function main(argv: readonly string[]): Promise<void> {
  await runCommand(obdProgram(), argv);
}
