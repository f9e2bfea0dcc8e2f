import { spawnSync, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

/** For node:test's `skip`: false if every program is on PATH, otherwise the reason with the package to install. */
export function missing(programs: Readonly<Record<string, string>>): string | false {
  const absent = Object.entries(programs).filter(
    ([program]) => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0,
  );
  return (
    absent.length > 0 &&
    `not installed: ${absent.map(([program, pkg]) => `${program} (package ${pkg})`).join(', ')}`
  );
}

/** Settles when a process has a handler for a signal, however slowly it starts; throws if it ends before. */
export async function untilItCatches(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  const bit = 1n << BigInt(constants.signals[signal] - 1);
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(
        `The process ended (${String(child.exitCode ?? child.signalCode)}) before it was ready for ${signal}`,
      );
    const caught =
      /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1] ?? '0';
    if ((BigInt(`0x${caught}`) & bit) !== 0n) return;
    await sleep(20);
  }
}
