/**
 * What came from registries for one image, for `obd report`: per blob which pieces came and why, and the first requests
 * with their times. Bounded: a byte per piece and at most 64 Ki pieces a blob, made at its first fetch; 2048 requests.
 */
import type { ReadCause, ReadOptions, ReadableBlob } from '../blob/index.js';

/** Why something was fetched. `open`: the image was being opened. */
export type FetchCause = ReadCause | 'open';

/** In the order of their numbers in {@link FetchedBlob.map}, where 0 is "not fetched". */
export const FETCH_CAUSES = ['open', 'read', 'prefetch', 'download'] as const satisfies readonly FetchCause[];

/** The smallest unit a cache may have. */
const MIN_PIECE = 4096;
const MAX_PIECES = 64 * 1024;
/** A start takes hundreds; what comes later is in the maps and the sums. */
const FIRST_REQUESTS = 2048;

/** One of the first requests. */
export interface FetchRequest {
  /** Milliseconds since 1970, when it was made. */
  readonly time: number;
  /** Number of its blob in {@link FetchRecord.blobs}. */
  readonly blob: number;
  readonly offset: number;
  readonly length: number;
  /** Until all bytes were there, or it had failed; retries included. */
  readonly milliseconds: number;
  readonly cause: FetchCause;
  readonly ok: boolean;
}

/** What came of one blob. */
export class FetchedBlob {
  readonly digest: string;
  /** Bytes as stored. */
  readonly size: number;
  readonly pieceSize: number;
  requests = 0;
  failed = 0;
  /** Bytes that came, by number of the cause in {@link FETCH_CAUSES}; what came twice counts twice. */
  readonly bytes = FETCH_CAUSES.map(() => 0);
  /** Why each piece came first: 1 and the number of the cause; 0 if it did not. Undefined if nothing came. */
  map: Uint8Array | undefined;

  constructor(digest: string, size: number) {
    this.digest = digest;
    this.size = size;
    let pieceSize = MIN_PIECE;
    while (size / pieceSize > MAX_PIECES) pieceSize *= 2;
    this.pieceSize = pieceSize;
  }

  note(offset: number, length: number, cause: number): void {
    if (length === 0) return;
    this.bytes[cause] = (this.bytes[cause] ?? 0) + length;
    const map = (this.map ??= new Uint8Array(Math.ceil(this.size / this.pieceSize)));
    const last = Math.floor((offset + length - 1) / this.pieceSize);
    for (let piece = Math.floor(offset / this.pieceSize); piece <= last; piece++)
      if (map[piece] === 0) map[piece] = cause + 1;
  }
}

/** See the head of this file. */
export class FetchRecord {
  readonly blobs: FetchedBlob[] = [];
  readonly requests: FetchRequest[] = [];
  /** Requests that came after the first {@link FIRST_REQUESTS}. */
  omitted = 0;
  #opened = false;

  /** Bytes that came. */
  get bytes(): number {
    return this.blobs.reduce((sum, blob) => sum + blob.bytes.reduce((a, b) => a + b, 0), 0);
  }

  /** From now on reads are those of users, not of opening. */
  opened(): void {
    this.#opened = true;
  }

  /** The same blob as read through this record. The result owns `source`. */
  watch(source: ReadableBlob, digest: string): ReadableBlob {
    let number = this.blobs.findIndex((blob) => blob.digest === digest);
    if (number < 0) number = this.blobs.push(new FetchedBlob(digest, source.size)) - 1;
    return {
      name: source.name,
      size: source.size,
      read: (offset, into, options) => this.#read(source, number, offset, into, options),
      close: () => source.close(),
    };
  }

  async #read(
    source: ReadableBlob,
    number: number,
    offset: number,
    into: Uint8Array,
    options: ReadOptions | undefined,
  ): Promise<void> {
    const blob = this.blobs[number];
    const asked = options?.cause ?? 'read';
    const cause = asked === 'read' && !this.#opened ? 'open' : asked;
    const time = performance.timeOrigin + performance.now();
    let ok = false;
    try {
      await source.read(offset, into, options);
      ok = true;
      blob?.note(offset, into.byteLength, FETCH_CAUSES.indexOf(cause));
    } finally {
      if (blob !== undefined) {
        blob.requests++;
        if (!ok) blob.failed++;
      }
      if (this.requests.length >= FIRST_REQUESTS) this.omitted++;
      else
        this.requests.push({
          time,
          blob: number,
          offset,
          length: into.byteLength,
          milliseconds: performance.timeOrigin + performance.now() - time,
          cause,
          ok,
        });
    }
  }
}
