import { spawnSync, type ChildProcess } from 'node:child_process';
import { readdirSync, readlinkSync } from 'node:fs';
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

/**
 * Settles when a process has a file open, however slowly it starts; throws if it ends before. That a process catches a
 * signal says nothing: Node.js itself catches SIGTERM from its start, and then dies of it.
 */
export async function untilItOpens(child: ChildProcess, path: string): Promise<void> {
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(
        `The process ended (${String(child.exitCode ?? child.signalCode)}) before it opened "${path}"`,
      );
    const descriptors = `/proc/${child.pid}/fd`;
    const isIt = (name: string): boolean => {
      try {
        return readlinkSync(`${descriptors}/${name}`) === path;
      } catch {
        return false; // It was closed meanwhile.
      }
    };
    if (readdirSync(descriptors).some(isIt)) return;
    await sleep(20);
  }
}
