/** Data that comes into an append layer without passing through it: somebody else writes it, and the layer then shows it. */
import { SECTOR } from '../blob/index.js';
import type { LogRecord, LogWriter } from './index-log.js';
import type { PlacedRun } from './placed-layer.js';

/** Most bytes of one record's data. */
export const MAX_WRITE = 4 << 20;
/** Records handed to the log at once. */
export const MAX_RECORDS = 4096;

/** Data that somebody else writes behind what a layer's data file holds. Ends with one of its two methods. */
export interface Placement {
  /** Of the data file, which stays the layer's. */
  readonly fd: number;
  /** Byte of the data file where the first one goes. */
  readonly offset: number;
  /**
   * Shows the data: what was written is the layer's from then on, as if it had been stored.
   * @param runs disjoint; their positions count from {@link offset}.
   * @param length bytes that were written.
   * @throws IoError; the layer shows none of it, or the first runs
   */
  finish(runs: readonly PlacedRun[], length: number): Promise<void>;
  /** Cuts off what was written; nothing once {@link finish} was called. */
  abandon(): Promise<void>;
}

/** Logs runs whose positions count from byte `start` of the data file. */
export async function appendPlaced(log: LogWriter, runs: readonly PlacedRun[], start: number): Promise<void> {
  let records: LogRecord[] = [];
  for (const { offset, length, position } of runs)
    for (let done = 0; done < length; done += MAX_WRITE) {
      records.push({
        offset: (offset + done) / SECTOR,
        length: Math.min(MAX_WRITE, length - done) / SECTOR,
        moffset: position === undefined ? 0 : (start + position + done) / SECTOR,
        zeroed: position === undefined,
      });
      if (records.length < MAX_RECORDS) continue;
      await log.append(records);
      records = [];
    }
  await log.append(records);
}
