/** Running a program in an image's device: its own mounts and processes, nothing of which outlives it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError } from '../blob/index.js';

/** Between asking a program to end and ending it. */
const GRACE_MS = 10_000;
/** What the shell says when there is no such program, or it cannot be run. */
const NOT_RUN = new Set([125, 126, 127]);

/**
 * Arguments: device, user, working directory, program... What the program writes goes to memory; it has the host's network
 * and devices. The shell stays as process 1 of the namespace, so that everything ends with it.
 */
const SCRIPT = `
dev=$1 user=$2 cwd=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=0700 tmpfs /tmp
mkdir /tmp/lower /tmp/upper /tmp/work /tmp/root
mount -t ext4 -o ro,noload "$dev" /tmp/lower 2>/dev/null || mount -o ro "$dev" /tmp/lower
mount -t overlay -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work overlay /tmp/root
cd /tmp/root
mkdir -p proc sys dev
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --rbind /dev dev
trap : TERM
chroot \${user:+--userspec="$user"} . /bin/sh -c 'cd "$1" 2>/dev/null; shift; exec "$@"' sh "$cwd" "$@" </dev/null &
child=$!
status=0
while :; do
  wait $child && status=0 || status=$?
  kill -0 $child 2>/dev/null || break
done
exit $status
`;

/** What is run, as an image's configuration says it. */
export interface Workload {
  readonly command: readonly string[];
  readonly env: readonly string[];
  readonly user: string;
  readonly workingDir: string;
}

/** How it ended: by itself, or because its time was up. */
export interface WorkloadEnd {
  readonly timedOut: boolean;
  readonly status: number | undefined;
}

/**
 * Runs a program on a device that holds a root file system. Needs root. Its output is ours (standard error).
 * @throws ConfigError if the program cannot be run.
 */
export async function runInImage(
  devicePath: string,
  workload: Workload,
  options: { readonly timeMs: number; readonly signal: AbortSignal },
): Promise<WorkloadEnd> {
  const { command, env, user, workingDir } = workload;
  const child = spawn(
    'unshare',
    [
      '--mount',
      '--pid',
      '--ipc',
      '--uts',
      '--fork',
      '--kill-child',
      'sh',
      '-ec',
      SCRIPT,
      'sh',
      devicePath,
      user,
      workingDir,
      ...command,
    ],
    {
      // The script's tools are the host's, the program's those of the image: both are in the same places.
      env: {
        PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        ...environmentOf(env),
      },
      detached: true,
      stdio: ['ignore', 2, 2],
    },
  );
  let timedOut = false as boolean;
  const done = new AbortController();
  const stop = async (): Promise<void> => {
    try {
      await sleep(options.timeMs, undefined, { signal: AbortSignal.any([done.signal, options.signal]) });
      timedOut = true;
    } catch {
      if (done.signal.aborted) return;
    }
    signalGroup(child.pid, 'SIGTERM');
    await sleep(GRACE_MS, undefined, { signal: done.signal }).catch(() => undefined);
    if (!done.signal.aborted) signalGroup(child.pid, 'SIGKILL');
  };
  const stopping = stop();
  let status: number | null;
  try {
    [status] = (await once(child, 'exit')) as [number | null];
  } finally {
    done.abort();
    await stopping;
  }
  if (!timedOut && status !== null && NOT_RUN.has(status))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot run ${JSON.stringify(command[0])} in the image: status ${status}`,
      {
        hint: 'What it said stands above. The program must be in the image, and /bin/sh beside it; mounts need root',
      },
    );
  return { timedOut, status: status ?? undefined };
}

/** `NAME=VALUE` as an object. */
function environmentOf(env: readonly string[]): Record<string, string> {
  const result: Record<string, string> = {};
  for (const entry of env) {
    const at = entry.indexOf('=');
    if (at > 0) result[entry.slice(0, at)] = entry.slice(at + 1);
  }
  return result;
}

function signalGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  try {
    if (pid !== undefined) process.kill(-pid, signal);
  } catch {
    // It has ended meanwhile.
  }
}
