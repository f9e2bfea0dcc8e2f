import type { CommitSource } from './commit-layer.js';
import type { DataFile, LayerInfo } from './layer.js';
import type { SegmentMap } from './segment-map.js';

/** How a writable layer is opened. */
export interface OpenLayerOptions {
  /** `read` changes nothing on disk, and others may read at the same time. Default `write`. */
  readonly mode?: 'read' | 'write';
  /** To read what a device has open for writing; the caller knows that nothing is written. */
  readonly unlocked?: boolean;
  /** Refuse a damaged log instead of showing the state before the damage. */
  readonly strict?: boolean;
  /** Most records of an append layer's log; smaller only in tests. */
  readonly maxRecords?: number;
}

/** What a log-structured layer takes, and for how much. */
export interface LayerUsage {
  /** Bytes of the data file behind its header, freed ones included. */
  readonly size: number;
  /** Bytes of data that the layer shows. */
  readonly live: number;
  /** Records in the log. */
  readonly records: number;
  /** Records that would do. */
  readonly segments: number;
  /** Grows with every write and discard, by their users. */
  readonly changes: number;
}

/**
 * The layer that takes a disk's writes. It knows only its own sectors; {@link WritableLayerStack} puts it over the
 * layers below, keeps overlapping calls apart, and widens writes to `unit`.
 */
export interface WritableLayer extends CommitSource {
  readonly name: string;
  /** True if it was opened for looking only: nothing on disk is changed. */
  readonly readOnly: boolean;
  readonly info: LayerInfo;
  /** What this layer holds now. Not to be changed by others. */
  readonly map: SegmentMap;
  /** The file that the map points into. Its size grows. */
  readonly file: DataFile;
  /**
   * Bytes. The layer remembers what it holds in units of this, counted from `unitOrigin`: a write of part of a unit
   * that the layer does not hold yet must bring the rest of the unit along.
   */
  readonly unit: number;
  /** Offset of a boundary between units, at or below 0. */
  readonly unitOrigin: number;
  /** Stores whole sectors. Calls must not overlap in range; they may in time. */
  store(offset: number, from: Uint8Array): Promise<void>;
  /**
   * Makes whole sectors read as zeroes.
   * @param hidesData whether lower layers hold data in this range.
   */
  zero(offset: number, length: number, hidesData: boolean): Promise<void>;
  /** Settles once every call that settled before is durable. */
  flush(): Promise<void>;
  /** States a virtual size where there was none, durably; in memory only if the layer is read-only. */
  adoptVirtualSize(size: number): Promise<void>;
  /** Does not flush. Idempotent; waits for calls in flight. */
  close(): Promise<void>;
}

/** A writable layer whose file can become a lower. */
export interface SealableLayer extends WritableLayer {
  /**
   * Turns its data file into a sealed layer where it lies, durably. Nothing may be written any more. If it fails the layer
   * is as it was.
   */
  seal(): Promise<void>;
  /** Takes {@link seal} back, durably. */
  unseal(): Promise<void>;
}

/** Whether a layer is one. */
export function isSealable(layer: WritableLayer): layer is SealableLayer {
  return 'seal' in layer && 'unseal' in layer;
}
