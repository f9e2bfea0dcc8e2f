import { readFile, readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { summaryMs } from './opening.js';
import type { Row } from './report.js';

/** A service, as far as this benchmark needs one. */
export interface AttachTarget {
  /** Attaches one more device of the image. */
  attach(): Promise<{ readonly id: string; readonly openMs?: number | undefined }>;
  detach(id: string): Promise<void>;
  /** The service's process; known once something is attached. */
  pid(): Promise<number>;
}

/** How many, and how long the service is watched when it has nothing to do. */
export interface AttachOptions {
  readonly devices: number;
  readonly idleSeconds: number;
  /** Before it is watched: connections and garbage of the attaching go within half a minute, by timers of their own. */
  readonly restSeconds: number;
}

const TICKS_PER_SECOND = 100;

/**
 * Attaches devices one after the other and takes them away again: how long each takes, how much memory each costs the
 * service, and how much processor time an idle service uses. The first device is attached before anything is counted:
 * it loads code that the others share.
 */
export async function attachTimes(
  target: AttachTarget,
  { devices, idleSeconds, restSeconds }: AttachOptions,
): Promise<Row[]> {
  const ids: string[] = [];
  const open: number[] = [];
  const attach: number[] = [];
  const detach: number[] = [];
  try {
    ids.push((await target.attach()).id);
    const pid = await target.pid();
    const before = await memoryKib(pid);
    for (let i = 0; i < devices; i++) {
      const start = performance.now();
      const device = await target.attach();
      attach.push(performance.now() - start);
      ids.push(device.id);
      if (device.openMs !== undefined) open.push(device.openMs);
    }
    const after = await memoryKib(pid);
    await sleep(restSeconds * 1000);
    const idle = await idleCost(pid, idleSeconds);
    while (ids.length > 1) {
      const start = performance.now();
      await target.detach(ids.at(-1) ?? '');
      detach.push(performance.now() - start);
      ids.pop();
    }
    return [
      { name: 'open, as the service says', ...summaryMs(open) },
      { name: 'attach', ...summaryMs(attach) },
      { name: 'detach', ...summaryMs(detach) },
      { name: 'memory of a device', privateKib: (after - before) / devices },
      { name: `memory of the service with ${devices + 1}`, privateKib: after },
      { name: `idle service, ${idleSeconds} s`, ...idle },
    ];
  } finally {
    for (const id of ids) await target.detach(id);
  }
}

/** Memory that a process has written to and shares with nobody. */
async function memoryKib(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
  return Number(/^Private_Dirty:\s*(\d+)/m.exec(text)?.[1] ?? 0);
}

/** What a process does when nobody asks it for anything. */
async function idleCost(pid: number, seconds: number): Promise<Record<string, number>> {
  const before = await usage(pid);
  await sleep(seconds * 1000);
  const after = await usage(pid);
  return {
    cpu: (after.ticks - before.ticks) / TICKS_PER_SECOND / seconds,
    wakeUpsPerSecond: (after.switches - before.switches) / seconds,
  };
}

async function usage(pid: number): Promise<{ ticks: number; switches: number }> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  let switches = 0;
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const text = await readFile(`/proc/${pid}/task/${thread}/status`, 'utf8').catch(() => '');
    switches += Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(text)?.[1] ?? 0);
  }
  return { ticks: Number(fields[11]) + Number(fields[12]), switches };
}
