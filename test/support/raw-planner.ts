/** A planner for a raw file: every byte is local. For tests and benchmarks of the path below the formats. */
import type { ReadPlan, ReadPlanner } from '../../src/blob/index.js';

export interface RawDescription {
  readonly fd: number;
  /** Plan in pieces of this many bytes, as small extents would be; 0 for one piece. */
  readonly piece: number;
}

export function createPlanner(description: RawDescription): ReadPlanner {
  const { fd, piece } = description;
  return {
    plan(range: Float64Array, at: number, plan: ReadPlan): boolean {
      const offset = range[at] ?? 0;
      const length = range[at + 1] ?? 0;
      if (piece === 0) return plan.addRaw(fd, offset, length, 0);
      const before = plan.length;
      for (let done = 0; done < length; done += piece)
        if (!plan.addRaw(fd, offset + done, Math.min(piece, length - done), done)) {
          plan.length = before;
          return false;
        }
      return true;
    },
  };
}
