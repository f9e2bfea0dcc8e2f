import { addon } from './addon.js';
import { systemError } from './system-error.js';

/** What a maker of load measured; see native/load_meter.h. Latencies are in microseconds. */
export interface LoadTimes {
  readonly seconds: number;
  /** Processor time of the thread that made the load. */
  readonly cpuSeconds: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly longest: number;
}

/** A load on a file or block device; see native/file_load.h. */
export interface FileLoad {
  /** Open for reading, and for writing if there are writes; O_DIRECT if the depth shall mean something. */
  readonly fd: number;
  /** Of the device. */
  readonly size: number;
  /** Commands in flight, at most 1024; times `length` at most 256 MiB. */
  readonly depth: number;
  /** Bytes of each, at most 16 MiB. */
  readonly length: number;
  readonly seconds: number;
  /** Percent of writes, of noise. */
  readonly writes: number;
  readonly sequential: boolean;
  /** Bytes within which random places stay for 4096 accesses; then it lies elsewhere. 0: the whole device. */
  readonly window: number;
  /** Byte offsets to visit; default every multiple of `length`. */
  readonly targets?: Float64Array | undefined;
  readonly seed: number;
}

/** How it went. */
export interface FileLoadResult extends LoadTimes {
  readonly operations: number;
  /** Commands that came back short or with an error; the first ends the load. */
  readonly failed: number;
  /** Negative errno of the first, 0 if it was short. */
  readonly firstFailure: number;
  /** 0 or a negative errno of the load itself. */
  readonly error: number;
}

/** Reads and writes a file for a while, on libuv's pool. Wraps file_load_run. */
export function fileLoad(load: FileLoad): Promise<FileLoadResult> {
  return addon.fileLoad(load);
}

/** Takes an open file's bytes out of the page cache, as far as they are on disk. @throws a system error. */
export function dropCache(fd: number): void {
  const error = addon.dropCache(fd);
  if (error !== 0) throw systemError(error, 'posix_fadvise');
}

/** The compiled class; see native/plain_server.h. */
export interface NativePlainServer {
  close(): void;
}

/** Serves a queue from a plain file with nothing but C: what an I/O worker is measured against. */
export class PlainServer {
  readonly #native: NativePlainServer;

  /** @param handle of a published queue, owned from now on. @param fd borrowed until {@link close}. */
  constructor(handle: number, fd: number) {
    this.#native = new addon.PlainServer(handle, fd);
  }

  /** Idempotent. */
  close(): void {
    this.#native.close();
  }
}
