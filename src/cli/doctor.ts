/** `obd doctor`: whether each part works, and what to do where it does not. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { ConfigError } from '../blob/index.js';
import { diagnose, type DoctorReport, type Finding } from '../doctor/index.js';
import { DEFAULT_SERVICE_CONFIG_PATH } from '../image/index.js';
import { DEFAULT_CONTAINERD_CONFIG } from '../install/index.js';
import { exitNow, packageRoot } from '../native/index.js';
import { DEFAULT_SNAPSHOTTER_CONFIG_PATH } from '../snapshotter/index.js';

interface DoctorFlags {
  readonly serviceConfig: string;
  readonly snapshotterConfig: string;
  readonly address?: string;
  readonly containerdConfig: string;
  readonly containerdProgram: string;
  readonly timeout: string;
  readonly json?: boolean;
}

const MAX_TIMEOUT_S = 600;

/** Adds `doctor` to the program. */
export function addDoctorCommand(program: Command): void {
  program
    .command('doctor')
    .description('Say for each part and each device whether it works, and what to do if not.')
    .option('--service-config <file>', 'overlaybd.json of the service', DEFAULT_SERVICE_CONFIG_PATH)
    .option('--snapshotter-config <file>', 'config.json of the snapshotter', DEFAULT_SNAPSHOTTER_CONFIG_PATH)
    .option(
      '--address <socket>',
      "containerd's (default: CONTAINERD_ADDRESS, or where distributions have it)",
    )
    .option('--containerd-config <file>', "containerd's main configuration", DEFAULT_CONTAINERD_CONFIG)
    .option('--containerd-program <path>', 'containerd that reads it', 'containerd')
    .option('--timeout <seconds>', 'longest wait for each answer', '5')
    .option('--json', 'print all that was found')
    .addHelpText(
      'after',
      `
Changes nothing, and prints no secret. Exit status: 0 all works, perhaps with warnings; 1 something has failed.

Example:
  obd doctor
`,
    )
    .action(doctorCommand);
}

async function doctorCommand(flags: DoctorFlags): Promise<void> {
  const seconds = Number(flags.timeout);
  if (!(seconds > 0 && seconds <= MAX_TIMEOUT_S))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `--timeout is "${flags.timeout}", expected seconds, at most ${MAX_TIMEOUT_S}`,
    );
  const { version } = JSON.parse(await readFile(join(packageRoot, 'package.json'), 'utf8')) as {
    version: string;
  };
  const report = await diagnose({
    serviceConfig: flags.serviceConfig,
    snapshotterConfig: flags.snapshotterConfig,
    containerdAddress: flags.address,
    containerdConfig: flags.containerdConfig,
    containerdProgram: flags.containerdProgram,
    version,
    timeoutMs: seconds * 1000,
  });
  const text = flags.json === true ? `${JSON.stringify(report, undefined, 2)}\n` : table(report);
  await new Promise<void>((resolve) => {
    process.stdout.write(text, () => {
      resolve();
    });
  });
  if (report.status === 'failed') process.exitCode = 1;
  if (report.hangs) exitNow(1);
}

function table({ findings, devices, status }: DoctorReport): string {
  const all: readonly Finding[] = [...findings, ...devices];
  const width = Math.max(...all.map(({ part }) => part.length));
  const lines = all.flatMap((finding) => [
    `${finding.status.padEnd(8)}${finding.part.padEnd(width)}  ${oneLine(finding.detail)}`,
    ...(finding.todo === undefined || finding.status === 'ok'
      ? []
      : [`${' '.repeat(8 + width)}  -> ${oneLine(finding.todo)}`]),
  ]);
  const count = (wanted: Finding['status']): number => all.filter((f) => f.status === wanted).length;
  const [failed, warnings] = [count('failed'), count('warning')];
  const sum =
    status === 'ok'
      ? 'All works.'
      : `${failed} failed, ${warnings} ${warnings === 1 ? 'warning' : 'warnings'}.`;
  return `${lines.join('\n')}\n\n${sum}\n`;
}

/** What others have written may not break the table, or steer the terminal. */
function oneLine(text: string): string {
  // eslint-disable-next-line no-control-regex -- these are what is taken out
  return text.replace(/[\x00-\x1f\x7f-\x9f]+/g, ' ');
}
