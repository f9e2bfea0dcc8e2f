import { spawn, spawnSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';

import { checkout } from '../support/fixtures.js';

/** The program that boots throw-away machines; its header explains them. */
export const vmProgram = join(checkout, 'test', 'vm', 'vm');

/** For node:test's `skip`: false where machines can be booted, otherwise the reason. Makes the machine if need be. */
export const noMachine: string | false = whyNoMachine();

function whyNoMachine(): string | false {
  if (process.getuid?.() !== 0) return 'booting a test machine needs root';
  if (!existsSync('/usr/bin/apt-get')) return 'making a test machine needs apt';
  // Only a distribution without the kernel is a reason to skip; any other failure shows in the tests.
  const { status } = spawnSync(vmProgram, ['prepare'], { stdio: 'ignore' });
  return status === 3 && 'this distribution has no package user-mode-linux';
}

/**
 * Where a file of this machine is seen inside, read-only, wherever it lies: /tmp and its like are empty there, and what a
 * link points to may be.
 */
export function insideMachine(path: string): string {
  return `/lower${realpathSync(path)}`;
}

/** How a command in a machine ended. */
export interface MachineRun {
  /** The command's exit status; 124: out of time, 125: the machine failed. */
  readonly status: number;
  /** What the command wrote, stdout and stderr together. */
  readonly output: string;
  /** What `vm` itself wrote: the kernel's last words, times. */
  readonly messages: string;
}

/** Options of {@link runInMachine}. */
export interface MachineOptions {
  /** Directory of the host that is /vm inside, read-write. */
  readonly share?: string;
  readonly timeoutSeconds?: number;
  readonly memoryMiB?: number;
  readonly qemu?: boolean;
  /** systemd is the first process; the machine ends with an orderly power-off. */
  readonly systemd?: boolean;
  /** File that keeps what changes: the next machine with it is this one after a reboot. */
  readonly disk?: string;
}

/** Boots a machine, runs the command in it as root and waits for its end. */
export async function runInMachine(
  command: readonly string[],
  options: MachineOptions = {},
): Promise<MachineRun> {
  const flags = [
    ...(options.share === undefined ? [] : ['--share', options.share]),
    ...(options.timeoutSeconds === undefined ? [] : ['--timeout', String(options.timeoutSeconds)]),
    ...(options.memoryMiB === undefined ? [] : ['--memory', String(options.memoryMiB)]),
    ...(options.qemu === true ? ['--qemu'] : []),
    ...(options.systemd === true ? ['--systemd'] : []),
    ...(options.disk === undefined ? [] : ['--disk', options.disk]),
  ];
  // A test that is killed takes its machine with it.
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', vmProgram, 'run', ...flags, '--', ...command], {
    cwd: checkout,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output: Buffer[] = [];
  const messages: Buffer[] = [];
  child.stdout.on('data', (bytes: Buffer) => output.push(bytes));
  child.stderr.on('data', (bytes: Buffer) => messages.push(bytes));
  const status = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => {
      resolve(code ?? 125);
    });
  });
  return {
    status,
    output: Buffer.concat(output).toString(),
    messages: Buffer.concat(messages).toString(),
  };
}

/**
 * Runs a command that is expected to succeed and returns its output.
 * @throws Error with everything that the machine said, if the status is not 0.
 */
export async function succeedInMachine(
  command: readonly string[],
  options: MachineOptions = {},
): Promise<string> {
  const run = await runInMachine(command, options);
  if (run.status !== 0)
    throw new Error(`${command.join(' ')}: status ${String(run.status)}\n${run.output}\n${run.messages}`);
  return run.output;
}
