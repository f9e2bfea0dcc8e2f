import { createRequire } from 'node:module';
import type * as CliProgress from 'cli-progress';
import { formatDuration, formatSize } from './units.js';

/** How far a long piece of work has come. */
export interface Progress {
  /** `done` of `total` bytes; a total may grow. Cheap enough to call per buffer. */
  update(done: number, total: number): void;
  /** Ends the display; idempotent. Must be called on failure too. */
  stop(): void;
}

/** Lines for a log are at least this far apart, so that a build log stays readable. */
const LINE_INTERVAL_MS = 5000;

/**
 * Shows byte progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere, nothing if `quiet`.
 */
export function byteProgress(title: string, quiet = false): Progress {
  if (quiet) return { update: () => undefined, stop: () => undefined };
  const started = Date.now();
  if (process.stderr.isTTY) {
    // Only a terminal needs it.
    const { SingleBar } = createRequire(import.meta.url)('cli-progress') as typeof CliProgress;
    const bar = new SingleBar({
      format: `${title} {bar} {percentage}% {size} {rate}/s`,
      hideCursor: true,
      clearOnComplete: true,
      stream: process.stderr,
    });
    let running = false;
    return {
      update(done, total) {
        const payload = {
          size: formatSize(done),
          rate: formatSize((done * 1000) / Math.max(1, Date.now() - started)),
        };
        if (!running) bar.start(total, done, payload);
        running = true;
        bar.setTotal(total);
        bar.update(done, payload);
      },
      stop() {
        if (running) bar.stop();
        running = false;
      },
    };
  }
  let last = started;
  return {
    update(done, total) {
      const now = Date.now();
      if (now - last < LINE_INTERVAL_MS) return;
      last = now;
      const percent = total > 0 ? Math.floor((100 * done) / total) : 100;
      process.stderr.write(
        `${title}: ${percent}% (${formatSize(done)} of ${formatSize(total)}, ${formatDuration(now - started)})\n`,
      );
    },
    stop: () => undefined,
  };
}
