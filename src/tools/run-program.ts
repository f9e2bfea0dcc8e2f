import { spawn } from 'node:child_process';
import { abortedError, ConfigError, isSystemError } from '../blob/index.js';

/** Most of what a program says that is kept. */
const MAX_SAID = 64 * 1024;

/** How a program ended. */
export interface ProgramResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** What to say if it is not installed, and how to stop it. */
export interface ProgramOptions {
  /** Debian package that has it. */
  readonly pkg: string;
  readonly signal?: AbortSignal | undefined;
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs another program to its end. @throws ConfigError OBD_CONFIG_NOT_FOUND if it is not installed */
export async function runProgram(
  program: string,
  args: readonly string[],
  options: ProgramOptions,
): Promise<ProgramResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      // Where Debian keeps the tools of file systems is not on everybody's path.
      env: {
        ...process.env,
        PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
        LC_ALL: 'C',
        ...options.env,
      },
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (text: Buffer) => {
      if (stdout.length < MAX_SAID) stdout += text.toString();
    });
    child.stderr.on('data', (text: Buffer) => {
      if (stderr.length < MAX_SAID) stderr += text.toString();
    });
    child.once('error', (error) => {
      if (options.signal?.aborted === true) return; // 'close' follows.
      if (isSystemError(error) && error.code === 'ENOENT')
        reject(
          new ConfigError('OBD_CONFIG_NOT_FOUND', `Cannot run ${program}: it is not installed`, {
            hint: `Install it (Debian: ${options.pkg})`,
          }),
        );
      else reject(error);
    });
    child.once('close', (status) => {
      if (options.signal?.aborted === true) reject(abortedError(program, options.signal));
      else resolve({ status, stdout, stderr });
    });
  });
}
