/**
 * Reads and writes a block device from a process of its own. A process that serves a device must not open it itself:
 * killed in the middle of a read it would wait for itself (native/loop_device.h).
 */
import { fork } from 'node:child_process';
import { open } from 'node:fs/promises';

type Request =
  | { readonly op: 'read'; readonly id: number; readonly offset: number; readonly length: number }
  | { readonly op: 'write'; readonly id: number; readonly offset: number; readonly data: Uint8Array }
  | { readonly op: 'flush'; readonly id: number };

interface Answer {
  readonly id: number;
  readonly data?: Uint8Array;
  /** Of the system error. */
  readonly code?: string;
}

/** A child that has the device open. */
export interface ChildClient {
  read(offset: number, length: number): Promise<Uint8Array>;
  write(offset: number, data: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  /** Ends the child, which closes the device; reads in flight reject. Idempotent. */
  close(): Promise<void>;
}

/** Opens the device in a child. @param flags of open(2), numeric. */
export async function openInChild(path: string, flags: number): Promise<ChildClient> {
  const child = fork(import.meta.filename, [path, String(flags)], { serialization: 'advanced' });
  const waiting = new Map<number, (answer: Answer) => void>();
  const exited = new Promise<void>((resolve) =>
    child.once('exit', () => {
      for (const [id, settle] of waiting) settle({ id, code: 'EPIPE' });
      waiting.clear();
      resolve();
    }),
  );
  child.on('message', (answer: Answer) => {
    waiting.get(answer.id)?.(answer);
    waiting.delete(answer.id);
  });
  let last = 0;
  const wait = (id: number): Promise<Answer> =>
    new Promise((resolve, reject) => {
      waiting.set(id, (answer) => {
        if (answer.code === undefined) resolve(answer);
        else reject(Object.assign(new Error(answer.code), { code: answer.code }));
      });
    });
  const ask = (request: Request): Promise<Answer> => {
    const answer = wait(request.id);
    child.send(request);
    return answer;
  };
  await wait(0);
  return {
    async read(offset, length) {
      return (await ask({ op: 'read', id: ++last, offset, length })).data ?? new Uint8Array();
    },
    async write(offset, data) {
      await ask({ op: 'write', id: ++last, offset, data });
    },
    async flush() {
      await ask({ op: 'flush', id: ++last });
    },
    async close() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

async function serve(path: string, flags: number): Promise<void> {
  const say = (answer: Answer): void => {
    if (process.connected) process.send?.(answer);
  };
  const code = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);
  let file;
  try {
    file = await open(path, flags);
  } catch (error) {
    say({ id: 0, code: code(error) });
    return;
  }
  const device = file;
  const run = async (request: Request): Promise<Answer> => {
    const { id } = request;
    if (request.op === 'read') {
      const data = new Uint8Array(request.length);
      const { bytesRead } = await device.read(data, 0, data.length, request.offset);
      return { id, data: data.subarray(0, bytesRead) };
    }
    if (request.op === 'write') await device.write(request.data, 0, request.data.length, request.offset);
    else await device.datasync();
    return { id };
  };
  process.on('message', (request: Request) => {
    run(request).then(say, (error: unknown) => {
      say({ id: request.id, code: code(error) });
    });
  });
  process.on('disconnect', () => {
    process.exit();
  });
  say({ id: 0 });
}

const [, script, path, flags] = process.argv;
if (script === import.meta.filename && path !== undefined && process.send !== undefined)
  await serve(path, Number(flags));
