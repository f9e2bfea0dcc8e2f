/** What a report tells, as plain data: what `obd report --json` prints, and what the page is made of. */
import type { DeviceInfo } from '../service/index.js';

/** How a stretch of the disk got where it is. `local`: it did not come from a registry for this device. */
export type PieceCause = 'local' | 'open' | 'read' | 'prefetch' | 'download';

/** A stretch of the disk that some layer has, all of it alike. */
export interface DiskRun {
  /** Bytes, in the disk. */
  readonly offset: number;
  readonly length: number;
  /** Number of its layer, 0 at the bottom. */
  readonly layer: number;
  /** Users of the device read it. */
  readonly read: boolean;
  readonly cause: PieceCause;
}

/** One layer. */
export interface LayerReport {
  readonly number: number;
  /** Digest; empty if the configuration has none. */
  readonly digest: string;
  /** Where it is: `registry`, or the path of a local file. */
  readonly place: string;
  /** Bytes as stored. */
  readonly size: number;
  /** Stored bytes on local disk. */
  readonly presentBytes: number;
  /** Stored bytes that came from the registry for this device; what came twice counts twice. */
  readonly fetchedBytes: number;
  readonly requests: number;
  /** Bytes of the disk that are this layer's. */
  readonly diskBytes: number;
  /** Those that were read. */
  readonly readBytes: number;
}

/** One file that was read, or that something was fetched of. */
export interface FileReport {
  readonly path: string;
  readonly size: number;
  /** Bytes of its content that were read, in whole pieces of the disk. */
  readonly readBytes: number;
  /** Bytes of its content that came from the registry, as they are on the disk. */
  readonly fetchedBytes: number;
  /** The layer that has most of it. */
  readonly layer: number;
  /** When it was read first, in milliseconds from the start; undefined if that was later than the log goes. */
  readonly firstRead: number | undefined;
}

/** What is known of files. */
export interface FilesReport {
  /** Why nothing is known; undefined if it is. */
  readonly unavailable: string | undefined;
  /** Files of the image. */
  readonly count: number;
  /** Those with bytes read. */
  readonly readCount: number;
  /** Most bytes read first; at most {@link MAX_FILES}. */
  readonly files: readonly FileReport[];
  /** Bytes that were read and belong to no file: directories, inodes, and what else a file system needs. */
  readonly otherReadBytes: number;
}

/** One of the first reads. */
export interface ReadEvent {
  /** Milliseconds from the start. */
  readonly at: number;
  readonly offset: number;
  readonly length: number;
  /** All of it was on local disk. */
  readonly local: boolean;
  /** The file it begins in, if that is known. */
  readonly path: string | undefined;
}

/** One of the first requests to a registry. */
export interface RequestEvent {
  readonly at: number;
  readonly layer: number | undefined;
  readonly digest: string;
  readonly offset: number;
  readonly length: number;
  readonly milliseconds: number;
  readonly cause: string;
  readonly ok: boolean;
}

/** Requests of one cause. Latencies in milliseconds, of those that are in the log. */
export interface RequestSummary {
  readonly cause: string;
  readonly bytes: number;
  readonly requests: number;
  readonly failed: number;
  readonly median: number;
  readonly p95: number;
  readonly longest: number;
}

/** The whole report. */
export interface Report {
  readonly version: string;
  /** ISO time of the measurement. */
  readonly time: string;
  readonly device: DeviceInfo;
  /** ISO time that events count from: the first of them. */
  readonly start: string;
  readonly totals: {
    /** Bytes of the disk that layers have. */
    readonly diskBytes: number;
    /** Those that were read at least once. */
    readonly readBytes: number;
    /** Those that came from a registry. */
    readonly fetchedDiskBytes: number;
    /** Those that came from a registry and were not read. */
    readonly fetchedUnreadBytes: number;
    /** Stored bytes that came from a registry. */
    readonly fetchedBytes: number;
    /** `fetchedBytes / readBytes`; undefined if nothing was read. */
    readonly amplification: number | undefined;
    /** Stored bytes of all layers. */
    readonly storedBytes: number;
    readonly requests: number;
    readonly failedRequests: number;
  };
  readonly layers: readonly LayerReport[];
  /** Why layers and map are incomplete; undefined if they are not. */
  readonly imageUnavailable: string | undefined;
  /** The image has a writable layer, which the map does not show. */
  readonly writable: boolean;
  readonly map: readonly DiskRun[];
  readonly files: FilesReport;
  readonly causes: readonly RequestSummary[];
  readonly reads: readonly ReadEvent[];
  /** True if there were more reads than the log holds. */
  readonly readsTruncated: boolean;
  readonly requests: readonly RequestEvent[];
  readonly requestsOmitted: number;
}

/** Files told one by one: what nobody scrolls past. */
export const MAX_FILES = 1000;
