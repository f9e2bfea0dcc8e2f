import { spawnSync } from 'node:child_process';

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
