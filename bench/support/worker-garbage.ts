/**
 * What the garbage collectors of I/O workers do while they serve reads. Told by `--trace-gc`, which names the isolate
 * of each collection and the time since that began. The main thread's collections are left out (it draws up the load and
 * prints the report), and so are those of a worker's start, when its code is compiled, and of its end.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { packageRoot } from '../../src/native/index.js';

const OBD = join(packageRoot, 'dist', 'bench', 'support', 'obd.js');

/** A run to count in. Its last `counted` of `seconds` count: the image is opened, read and the code compiled before. */
export interface GarbageRun {
  /** The image's configuration. */
  readonly image: string;
  readonly depth: number;
  readonly seconds: number;
  readonly counted: number;
  /** Flags of V8. */
  readonly flags?: readonly string[];
}

/** What was counted. */
export interface WorkerGarbage {
  /** Each collection's milliseconds since its worker began. */
  readonly times: readonly number[];
  /** All that V8 said. */
  readonly output: string;
}

/** Runs `obd bench ring` on an image. @throws Error if the run fails, or no worker is to be seen in it. */
export async function workerGarbage({
  image,
  depth,
  seconds,
  counted,
  flags = [],
}: GarbageRun): Promise<WorkerGarbage> {
  const load = ['--depth', String(depth), '--seconds', String(seconds), '--warm-up', '0'];
  const { stdout: output } = await promisify(execFile)(
    process.execPath,
    ['--trace-gc', ...flags, OBD, 'bench', 'ring', image, ...load],
    { maxBuffer: 64 << 20 },
  );
  const isolates = new Map<string, number[]>();
  for (const [, isolate = '', ms = ''] of output.matchAll(/^\[\d+:(0x[0-9a-f]+)\]\s+(\d+) ms:/gm))
    isolates.set(isolate, [...(isolates.get(isolate) ?? []), Number(ms)]);
  // The first isolate is the main thread's. A worker that starts collects garbage, too.
  const [, ...workers] = [...isolates.values()];
  if (workers.length === 0) throw new Error(`Cannot count collections: V8 names no worker:\n${output}`);
  // The load begins after the worker does, and so ends later than this.
  const end = seconds * 1000;
  const times = workers.flat().filter((ms) => ms > end - counted * 1000 && ms < end);
  return { times, output };
}
