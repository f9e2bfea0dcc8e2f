import type { LRUCache } from 'lru-cache';
import type { Logger } from '../log/index.js';
import type { ByteBudget } from './byte-budget.js';
import type { DiskHealth } from './disk-health.js';
import type { SharedBlob } from './shared-blob.js';
import type { UnitFile } from './unit-file.js';

/** What all blobs of one cache share. */
export interface CacheServices {
  readonly log: Logger;
  readonly health: DiskHealth;
  /** Bytes fetched and not yet stored. */
  readonly memory: ByteBudget;
  /** Units that the disk did not take, by `key/unit`. */
  readonly spill: LRUCache<string, Uint8Array>;
  readonly maxRunBytes: number;
  readonly maxRuns: number;
  /** Bytes that a miss fetches, where units are smaller: those around it, in blocks of this size. */
  readonly missSize: number;
  /** Seconds since 1970. */
  readonly now: () => number;
  readonly counters: CacheCounters;
  /** Stores units where room can be made for them; false if it cannot. */
  readonly write: (file: UnitFile, first: number, bytes: Uint8Array) => Promise<boolean>;
  /** Called when all units of a blob with a digest have become present. */
  readonly completed: (blob: SharedBlob) => void;
  /** Settles once no complete blob waits for its check. */
  readonly verified: () => Promise<void>;
  /** Called when units were written. */
  readonly wrote: (blob: SharedBlob) => void;
}

/** Counted since the cache was opened. */
export interface CacheCounters {
  reads: number;
  readBytes: number;
  /** Reads that found all their bytes here. */
  hits: number;
  fetches: number;
  fetchedBytes: number;
  evictedBytes: number;
  badUnits: number;
  /** Bytes fetched that the disk did not take. */
  unstoredBytes: number;
}
