import { Command } from 'commander';
import { runCommand } from './program.js';

/** Adds a command, its options and its action to the program. */
type AddCommand = (program: Command) => void;

/**
 * Every command, by name. A command is a file beside this one, loaded only when it is asked for: `obd list` should
 * not wait for HTTP and ext4, and `obd registry` runs without the native addon.
 */
const COMMANDS: Readonly<Record<string, () => Promise<AddCommand>>> = {
  abort: async () => (await import('./abort.js')).addAbortCommand,
  apply: async () => (await import('./apply.js')).addApplyCommand,
  attach: async () => (await import('./attach.js')).addAttachCommand,
  bench: async () => (await import('./bench.js')).addBenchCommand,
  commit: async () => (await import('./commit.js')).addCommitCommand,
  compact: async () => (await import('./compact.js')).addCompactCommand,
  convert: async () => (await import('./convert.js')).addConvertCommand,
  create: async () => (await import('./create.js')).addCreateCommand,
  detach: async () => (await import('./detach.js')).addDetachCommand,
  doctor: async () => (await import('./doctor.js')).addDoctorCommand,
  export: async () => (await import('./export.js')).addExportCommand,
  import: async () => (await import('./import.js')).addImportCommand,
  inspect: async () => (await import('./inspect.js')).addInspectCommand,
  install: async () => (await import('./install.js')).addInstallCommand,
  list: async () => (await import('./list.js')).addListCommand,
  merge: async () => (await import('./merge.js')).addMergeCommand,
  mount: async () => (await import('./mount.js')).addMountCommand,
  nbd: async () => (await import('./nbd.js')).addNbdCommand,
  pull: async () => (await import('./rpull.js')).addPullCommand,
  'record-trace': async () => (await import('./record-trace.js')).addRecordTraceCommand,
  registry: async () => (await import('./registry.js')).addRegistryCommand,
  report: async () => (await import('./report.js')).addReportCommand,
  resize: async () => (await import('./resize.js')).addResizeCommand,
  rpull: async () => (await import('./rpull.js')).addRpullCommand,
  service: async () => (await import('./tcmu-service.js')).addServiceCommand,
  snapshot: async () => (await import('./snapshot.js')).addSnapshotCommand,
  snapshotter: async () => (await import('./snapshotter.js')).addSnapshotterCommand,
  top: async () => (await import('./top.js')).addTopCommand,
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
  return program;
}

/** Entry point of bin/obd. */
export async function main(argv: readonly string[]): Promise<void> {
  await runCommand(await obdProgram(argv[0]), argv);
}
