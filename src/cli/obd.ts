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
import { addApplyCommand } from './apply.js';
import { runCommand } from './program.js';

/** Adds a command, its options and its action to the program. */
type AddCommand = (program: Command) => void;

/**
 * Every command, by name. A command is a file beside this one, loaded only when it is asked for: `obd list` should
 * not wait for HTTP and ext4, and `obd registry` runs without the native addon.
 */
const COMMANDS: Readonly<Record<string, () => Promise<AddCommand>>> = {
  attach: async () => (await import('./attach.js')).addAttachCommand,
  commit: async () => (await import('./commit.js')).addCommitCommand,
  convert: async () => (await import('./convert.js')).addConvertCommand,
  create: async () => (await import('./create.js')).addCreateCommand,
  detach: async () => (await import('./detach.js')).addDetachCommand,
  export: async () => (await import('./export.js')).addExportCommand,
  inspect: async () => (await import('./inspect.js')).addInspectCommand,
  list: async () => (await import('./list.js')).addListCommand,
  merge: async () => (await import('./merge.js')).addMergeCommand,
  mount: async () => (await import('./mount.js')).addMountCommand,
  nbd: async () => (await import('./nbd.js')).addNbdCommand,
  registry: async () => (await import('./registry.js')).addRegistryCommand,
  service: async () => (await import('./tcmu-service.js')).addServiceCommand,
  umount: async () => (await import('./mount.js')).addUmountCommand,
  verify: async () => (await import('./verify.js')).addVerifyCommand,
  zfile: async () => (await import('./zfile.js')).addZFileCommand,
};

/** The one program, with one of its commands or, for help and mistakes, all of them. */
export async function obdProgram(command?: string): Promise<Command> {
  const program = new Command('obd')
    .description('Container images as block devices that work at once (overlaybd).')
    .showHelpAfterError('(see --help)')
    .configureHelp({ sortSubcommands: true });
  const one =
    command === undefined ? undefined : Object.entries(COMMANDS).find(([name]) => name === command)?.[1];
  for (const load of one === undefined ? Object.values(COMMANDS) : [one]) (await load())(program);
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
  addApplyCommand(program);
  return program;
}

/** Entry point of bin/obd. */
export async function main(argv: readonly string[]): Promise<void> {
  await runCommand(await obdProgram(argv[0]), argv);
}
