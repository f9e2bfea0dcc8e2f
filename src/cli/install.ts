/** `obd install`: puts units, configurations and containerd's drop-in in place, and says what is left to do. */
import { execFile } from 'node:child_process';
import { access, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { Option, type Command } from 'commander';
import { ConfigError, DeviceError } from '../blob/index.js';
import {
  DEFAULT_CONTAINERD_CONFIG,
  UNITS,
  USUAL_PREFIX,
  inspectKernel,
  install,
  kernelProblems,
  nodeForUnits,
  uninstall,
  type FileResult,
  type InstallReport,
  type KernelProblem,
  type KernelReport,
} from '../install/index.js';
import { silentLogger } from '../log/index.js';
import { packageRoot } from '../native/index.js';
import { DEFAULT_SNAPSHOTTER_CONFIG_PATH, loadSnapshotterConfig } from '../snapshotter/index.js';

const run = promisify(execFile);
const SYSTEMCTL_TIMEOUT_MS = 10_000;

/** The command line. */
export interface InstallFlags {
  readonly root: string;
  readonly prefix?: string;
  readonly unitDir: string;
  readonly containerd: boolean;
  readonly containerdProgram?: string;
  readonly containerdConfig: string;
  readonly containerdConfigVersion?: string;
  readonly cri?: boolean;
  readonly dryRun?: boolean;
  readonly force?: boolean;
  readonly uninstall?: boolean;
  readonly json?: boolean;
}

/** Adds `install` to the program. */
export function addInstallCommand(program: Command): void {
  program
    .command('install')
    .description('Install units, configurations and the entry for containerd; start nothing.')
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--force', 'replace files that you have changed; yours stay beside as .old')
    .option('--uninstall', 'take away what an installation wrote and nobody changed')
    .option('--cri', "also make it the snapshotter of containerd's CRI plugin (Kubernetes)")
    .option('--no-containerd', 'leave containerd alone')
    .option('--containerd-config <file>', "containerd's main configuration", DEFAULT_CONTAINERD_CONFIG)
    .option(
      '--containerd-program <path>',
      'containerd to check changes with (default: "containerd", with --root none)',
    )
    .addOption(
      new Option(
        '--containerd-config-version <n>',
        'version of its configuration, if there is no file that says it',
      ).choices(['1', '2', '3', '4']),
    )
    .option('--prefix <dir>', 'where the package is, or will be, on the target (default: where it is now)')
    .option('--unit-dir <dir>', 'for the units of systemd', '/etc/systemd/system')
    .option('--root <dir>', 'install below this directory, for building packages and images', '/')
    .option('--json', 'print what was done as JSON')
    .addHelpText(
      'after',
      `
Your own changes are never overwritten: what would be written goes beside as FILE.new.
Exit status: 0 all is done; 1 something is left that only you can do, it says what; others are errors.

Example:
  obd install --dry-run
  obd install && systemctl daemon-reload && systemctl enable --now overlaybd-tcmu overlaybd-snapshotter
`,
    )
    .action(installCommand);
}

async function installCommand(flags: InstallFlags): Promise<void> {
  const report = await installAsTold(flags);
  const { kernel } = report;
  const osRelease = await readFile('/etc/os-release', 'utf8').catch(() => '');
  print(flags, report, kernel === undefined ? [] : kernelProblems(kernel, osRelease));
}

/** What the command does, without a word. @throws ConfigError, DeviceError, IoError */
export async function installAsTold(
  flags: InstallFlags,
): Promise<InstallReport & { readonly kernel?: KernelReport }> {
  const root = resolve(flags.root);
  const common = { root, force: flags.force === true, dryRun: flags.dryRun === true };
  if (flags.uninstall === true) {
    if (root === '/' && !common.dryRun) await refuseWhileRunning();
    return uninstall({ ...common, containerdConfig: flags.containerdConfig });
  }
  for (const [option, path] of [
    ['--containerd-config', flags.containerdConfig],
    ['--unit-dir', flags.unitDir],
    ['--prefix', flags.prefix ?? '/'],
  ] as const)
    if (!path.startsWith('/'))
      throw new ConfigError('OBD_CONFIG_VALUE', `${option} is "${path}", expected an absolute path`);
  const here = root === '/';
  const prefix = flags.prefix ?? (here ? packageRoot : USUAL_PREFIX);
  const kernel = here ? await inspectKernel() : undefined;
  const { address, root: snapshotsRoot } = await snapshotterConfig(root);
  const version = flags.containerdConfigVersion;
  const report = await install({
    ...common,
    packageRoot,
    prefix,
    unitDir: flags.unitDir,
    node: here ? await nodeForUnits() : undefined,
    kernel,
    address,
    snapshotsRoot,
    containerd: flags.containerd
      ? {
          configPath: flags.containerdConfig,
          program: flags.containerdProgram ?? (here ? 'containerd' : undefined),
          version: version === undefined ? undefined : Number(version),
          cri: flags.cri === true,
        }
      : undefined,
  });
  return { ...report, ...(kernel === undefined ? {} : { kernel }) };
}

/** The configuration that the snapshotter will have: the target's own, if there is one that can be read. */
async function snapshotterConfig(root: string): Promise<{ address: string; root: string }> {
  const installed = join(root, DEFAULT_SNAPSHOTTER_CONFIG_PATH);
  const there = await access(installed).then(
    () => true,
    () => false,
  );
  return loadSnapshotterConfig(
    there ? installed : join(packageRoot, 'config', 'overlaybd-snapshotter.json'),
    silentLogger,
  );
}

/** @throws DeviceError while a unit is active or enabled: removing it would leave it half there. */
async function refuseWhileRunning(): Promise<void> {
  for (const unit of UNITS)
    for (const question of ['is-active', 'is-enabled']) {
      const answer = await run('systemctl', [question, unit], { timeout: SYSTEMCTL_TIMEOUT_MS }).then(
        ({ stdout }) => stdout.trim(),
        () => '',
      );
      if (answer === 'active' || answer === 'enabled')
        throw new DeviceError('OBD_DEVICE_BUSY', `Cannot uninstall: ${unit} is ${answer}`, {
          source: unit,
          hint: `Stop the containers that use it, then: systemctl disable --now ${UNITS.join(' ')}`,
        });
    }
}

function print(flags: InstallFlags, report: InstallReport, problems: readonly KernelProblem[]): void {
  // Who builds a package without a containerd has nobody to tell.
  const told = resolve(flags.root) === '/' || flags.containerdProgram !== undefined;
  if ((told && report.manual.length > 0) || problems.some(({ fatal }) => fatal)) process.exitCode = 1;
  if (flags.json === true) {
    process.stdout.write(
      `${JSON.stringify({ dryRun: flags.dryRun === true, ...report, problems }, undefined, 2)}\n`,
    );
    return;
  }
  const lines = report.files.map(fileLine);
  if (flags.dryRun === true) lines.unshift('Nothing is changed; this is what would be done:');
  if (lines.length === 0) lines.push('Nothing is installed that this program wrote');
  for (const { text, todo } of problems) lines.push('', text, `  ${todo}`);
  for (const { reason, snippet } of report.manual)
    lines.push(
      '',
      `For you to do: ${reason}. Put this into ${flags.containerdConfig}:`,
      '',
      indented(snippet),
    );
  if (flags.uninstall !== true) lines.push('', ...nextSteps(flags));
  process.stdout.write(`${lines.join('\n')}\n`);
}

function fileLine({ path, outcome, note }: FileResult): string {
  return `${outcome.padEnd(10)}${path}${note === undefined ? '' : `  (${note})`}`;
}

function indented(text: string): string {
  return text.trimEnd().replace(/^(?=.)/gm, '    ');
}

function nextSteps({ containerd, dryRun }: InstallFlags): string[] {
  if (dryRun === true) return [];
  return [
    'Next:',
    '  systemctl daemon-reload',
    `  systemctl enable --now ${UNITS.join(' ')}`,
    ...(containerd
      ? ['  systemctl restart containerd      # it reads its configuration when it starts']
      : []),
    '  obd doctor',
  ];
}
