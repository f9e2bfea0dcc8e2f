import type { ReadableBlob } from '../blob/index.js';
import type { SegmentIndex } from './segment-index.js';

/** A file that segments point into. */
export interface DataFile {
  readonly blob: ReadableBlob;
  /**
   * True for the target of a warp layer, whose last sector may be partial and then reads as padded with zeroes. Any
   * other read beyond a file's end is an error, never zeroes.
   */
  readonly padsLastSector: boolean;
}

/** What a layer says about itself. */
export interface LayerInfo {
  /** Bytes of the virtual disk; 0 = inherit from below. */
  readonly virtualSize: number;
  /** Upper case, or null. */
  readonly uuid: string | null;
  readonly parentUuid: string | null;
  readonly userTag: Uint8Array;
}

/** An open read-only layer: what a stack is built from. */
export interface Layer {
  readonly name: string;
  readonly info: LayerInfo;
  /** Sorted, disjoint; tags count in {@link files}. */
  readonly index: SegmentIndex;
  readonly files: readonly DataFile[];
  /** Closes its files. Idempotent. */
  close(): Promise<void>;
}
