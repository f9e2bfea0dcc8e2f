import { SnapshotError } from '../blob/index.js';

/** Kinds of snapshots, as filters spell them. */
export type SnapshotKind = 'view' | 'active' | 'committed';

/** Labels of a snapshot. */
export type Labels = Readonly<Record<string, string>>;

/** What a snapshot takes on disk. */
export interface DiskUsage {
  readonly size: number;
  readonly inodes: number;
}

/** A snapshot as the store keeps it. `name` is the key of an active or a view. */
export interface SnapshotRecord {
  /** Names its directory; never used again. */
  readonly id: number;
  readonly name: string;
  /** Name of the committed snapshot it builds on, or empty. */
  readonly parent: string;
  readonly kind: SnapshotKind;
  readonly labels: Labels;
  /** Microseconds since 1970. */
  readonly createdAt: number;
  readonly updatedAt: number;
  /** Of a committed snapshot, taken when it was committed. */
  readonly usage?: DiskUsage;
}

/** The error for a name that is not there. */
export function notFound(name: string, what = 'snapshot'): SnapshotError {
  return new SnapshotError('OBD_SNAPSHOT_NOT_FOUND', `${what} "${name}" does not exist`);
}

/** Milliseconds that the two clocks may differ before the first is believed again. */
const MAX_DRIFT_MS = 2;
let offsetMs = performance.timeOrigin;

/**
 * Microseconds since 1970. `Date.now()` is too coarse: containerd may compare with times of its own, taken nanoseconds
 * before; so this reads the monotonic clock, corrected whenever it and the wall clock have drifted apart.
 */
export function nowMicros(): number {
  const wall = Date.now();
  let now = offsetMs + performance.now();
  if (Math.abs(now - wall) > MAX_DRIFT_MS) {
    offsetMs += wall - now;
    now = wall;
  }
  return Math.floor(now * 1000);
}
