import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { checkout } from '../support/fixtures.js';

/** What a program of bin/ came to. */
export interface ToolResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program of bin/ to its end. */
export function runTool(name: string, args: readonly string[], input?: Uint8Array): ToolResult {
  const run = spawnSync(process.execPath, [join(checkout, 'bin', name), ...args], {
    ...(input === undefined ? {} : { input }),
    maxBuffer: 2 ** 28,
    encoding: 'utf8',
  });
  return { status: run.status, stdout: run.stdout, stderr: run.stderr };
}
