/**
 * What a test may leave behind on a machine, looked at before and after: mounts, loop devices, TCMU objects in configfs, UIO
 * and SCSI devices, files in /run/overlaybd, processes that descend from us.
 */
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Everything of one kind, each thing as one line that a person can act on. */
export type Snapshot = Readonly<Record<string, readonly string[]>>;

/** Looks at the machine. */
export function takeSnapshot(): Snapshot {
  return {
    mounts: linesOf('/proc/self/mounts'),
    loopDevices: namesIn('/sys/block').flatMap((name) =>
      linesOf(join('/sys/block', name, 'loop/backing_file')).map((file) => `/dev/${name} <- ${file}`),
    ),
    configfs: [
      // user_N, the directory of a host bus adapter, stays by design: the reference leaves it too.
      ...namesIn('/sys/kernel/config/target/core')
        .filter((name) => name.startsWith('user_'))
        .flatMap((name) =>
          namesIn(join('/sys/kernel/config/target/core', name))
            .filter((device) => !device.startsWith('hba_'))
            .map((device) => `core/${name}/${device}`),
        ),
      ...namesIn('/sys/kernel/config/target/loopback')
        .filter((name) => name.startsWith('naa.'))
        .map((name) => `loopback/${name}`),
    ],
    uioDevices: namesIn('/sys/class/uio'),
    scsiDevices: namesIn('/sys/class/scsi_device'),
    runFiles: filesBelow('/run/overlaybd'),
    processes: descendants(process.pid),
  };
}

/**
 * Things that are there now and were not in `before`, as "kind: line". Teardown may end a little after the call that began
 * it returns, so this looks again until nothing is left or `patienceMs` has passed.
 */
export async function leftSince(before: Snapshot, patienceMs = 3000): Promise<string[]> {
  for (let waited = 0; ; waited += 100) {
    const left = Object.entries(takeSnapshot()).flatMap(([kind, lines]) =>
      lines.filter((line) => !before[kind]?.includes(line)).map((line) => `${kind}: ${line}`),
    );
    if (left.length === 0 || waited >= patienceMs) return left;
    await sleep(100);
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory).sort();
  } catch {
    return []; // no such subsystem in this kernel, or gone while we look
  }
}

function linesOf(file: string): string[] {
  try {
    return readFileSync(file, 'utf8')
      .split('\n')
      .filter((line) => line !== '');
  } catch {
    return [];
  }
}

function filesBelow(directory: string): string[] {
  try {
    return readdirSync(directory, { recursive: true, encoding: 'utf8' }).map((name) => join(directory, name));
  } catch {
    return [];
  }
}

function descendants(ancestor: number): string[] {
  const parentOf = new Map<number, number>();
  for (const name of namesIn('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const parent = linesOf(`/proc/${name}/status`).find((line) => line.startsWith('PPid:'));
    if (parent !== undefined) parentOf.set(Number(name), Number(parent.slice(5)));
  }
  return [...parentOf.keys()]
    .filter((pid) => {
      let at = parentOf.get(pid);
      while (at !== undefined && at !== 0 && at !== ancestor) at = parentOf.get(at);
      return at === ancestor;
    })
    .map((pid) => `${String(pid)} ${commandOf(pid)}`);
}

function commandOf(pid: number): string {
  const words = linesOf(`/proc/${String(pid)}/cmdline`)
    .join(' ')
    .replaceAll('\0', ' ')
    .trim();
  if (words !== '') return words;
  try {
    return readlinkSync(`/proc/${String(pid)}/exe`);
  } catch {
    return '(ended)';
  }
}
