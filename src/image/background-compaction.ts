/**
 * Compacts the writable layer of an image that is in use, when that is worth it (docs/adr/0050-online-compaction.md).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { RateLimit } from '../cache/index.js';
import type { Logger } from '../log/index.js';
import type { CompactResult, LayerUsage } from '../lsmt/index.js';

/** The `compactionConfig` block of overlaybd.json. */
export interface CompactionKeys {
  readonly enable: boolean;
  /** Dead data below this is left alone. */
  readonly minDeadMB: number;
  /** So much of the data file must be dead. */
  readonly deadPercent: number;
  /** Copied per second and device. */
  readonly maxMBps: number;
}

/** The layer, as far as this goes. */
export interface Compactable {
  readonly usage: LayerUsage;
  /** Calls `tell` once, with the next write or discard. */
  onceChanged(tell: () => void): void;
  compact(options: {
    pace: (bytes: number) => Promise<void>;
    signal: AbortSignal;
    logOnly: boolean;
  }): Promise<CompactResult | undefined>;
}

/** What the layer was like when it was last compacted. */
export interface LastTime {
  readonly size: number;
  /** Of the moment at which that began. */
  readonly changes: number;
}

const MIB = 1 << 20;
/** How often a layer in use is looked at: a few comparisons. */
const INTERVAL_MS = 5000;
/** After a failure, for example on a full disk. */
const PAUSE_MS = 600_000;
/** A log is rewritten when it has four times the records it needs, and this many (16 MiB) more. */
const SPARE_RECORDS = 1 << 20;

/**
 * What to do about a layer: `data` if more than `deadPercent` and `minDeadMB` of its data are dead, `log` if only its log
 * is too long. While it is written to, only when as much has been written again as a compaction copies at most: copying
 * stays in proportion to writing. When it is quiet, once; then the file can be cut off.
 */
export function compactionDue(
  usage: LayerUsage,
  last: LastTime | undefined,
  quiet: boolean,
  keys: CompactionKeys,
): 'data' | 'log' | undefined {
  const dead = usage.size - usage.live;
  const least = keys.minDeadMB * MIB;
  const changed = last?.changes !== usage.changes;
  if (dead > least && dead * 100 > usage.size * keys.deadPercent && changed)
    if (quiet || usage.size - (last?.size ?? 0) > Math.max(least, usage.live)) return 'data';
  return usage.records > 4 * usage.segments + SPARE_RECORDS ? 'log' : undefined;
}

/** Looks after one layer until it is closed: now and then while it is changed, and not at all while it is not. */
export class BackgroundCompaction {
  readonly #stop = new AbortController();
  readonly #ended: Promise<void>;

  /** @param intervalMs shorter only in tests. */
  constructor(layer: Compactable, keys: CompactionKeys, log: Logger, intervalMs = INTERVAL_MS) {
    this.#ended = this.#run(layer, keys, log, intervalMs);
  }

  /** Stops, in the middle of a compaction too. The layer may be closed then. Idempotent. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#ended;
  }

  async #run(layer: Compactable, keys: CompactionKeys, log: Logger, intervalMs: number): Promise<void> {
    const { signal } = this.#stop;
    const limit = new RateLimit(keys.maxMBps === 0 ? Infinity : keys.maxMBps * MIB);
    const pace = (bytes: number): Promise<void> => limit.take(bytes, signal);
    let last: LastTime | undefined;
    let before = layer.usage.changes;
    while (await passed(intervalMs, signal)) {
      const { usage } = layer;
      const quiet = usage.changes === before;
      const due = compactionDue(usage, last, quiet, keys);
      before = usage.changes;
      if (due === undefined) {
        // Nothing comes to be due as long as nothing changes.
        if (quiet && !(await changed(layer, signal))) return;
        continue;
      }
      try {
        const result = await layer.compact({ pace, signal, logOnly: due === 'log' });
        if (due === 'data') last = { size: layer.usage.size, changes: usage.changes };
        log.info({ ...result, due }, 'writable layer compacted');
      } catch (error) {
        if (signal.aborted) return;
        log.warn({ err: error, due }, 'writable layer cannot be compacted now');
        if (!(await passed(PAUSE_MS, signal))) return;
      }
    }
  }
}

/** Waits; false if told to stop. Does not keep the process alive. */
async function passed(ms: number, signal: AbortSignal): Promise<boolean> {
  return sleep(ms, true, { signal, ref: false }).catch(() => false);
}

/** Waits for a change of the layer; false if told to stop. */
async function changed(layer: Compactable, signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return false;
  return new Promise((resolve) => {
    const stop = (): void => {
      resolve(false);
    };
    signal.addEventListener('abort', stop, { once: true });
    layer.onceChanged(() => {
      signal.removeEventListener('abort', stop);
      resolve(true);
    });
  });
}
