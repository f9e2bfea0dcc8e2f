import { addAbortSignal } from 'node:stream';

/**
 * Runs work that SIGINT and SIGTERM end in order: the work's signal is aborted, what it made is taken away, and the exit
 * status says which of the two it was.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  let stopped: NodeJS.Signals | undefined;
  const stop = (signal: NodeJS.Signals): void => {
    stopped = signal;
    controller.abort(new Error(`stopped by ${signal}`));
  };
  // Once each: the second one ends the process at once, as it does by default.
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    return await work(controller.signal);
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    if (stopped !== undefined) process.exitCode = stopped === 'SIGINT' ? 130 : 143;
  }
}

/** Standard input, which a signal ends even while nothing comes. */
export function standardInput(signal: AbortSignal): AsyncIterable<Uint8Array> {
  return addAbortSignal(signal, process.stdin) as AsyncIterable<Uint8Array>;
}
