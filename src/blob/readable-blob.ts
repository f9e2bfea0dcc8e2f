/** Why bytes are wanted: somebody waits for them; they will be wanted soon; or all of a layer is to be here. */
export type ReadCause = 'read' | 'prefetch' | 'download';

/** Options of one read. */
export interface ReadOptions {
  /** Told to whatever has to fetch the bytes, for its records; changes nothing. Default `read`. */
  readonly cause?: ReadCause;
  /** Aborting rejects this call only; other readers of the same bytes are not disturbed. */
  readonly signal?: AbortSignal;
}

/** A run of bytes of fixed size, readable at any offset. Its bytes never change unless it is also writable. */
export interface ReadableBlob {
  /** How errors and logs name this blob: a path, URL or digest. Never holds a secret. */
  readonly name: string;
  /** Length in bytes; constant while open. */
  readonly size: number;
  /**
   * Fills all of `into` from [offset, offset + into.byteLength). There are no short reads. Calls may overlap.
   * `into` is not retained after the promise settles, and holds unspecified bytes if it rejects.
   * @throws RangeError if the range leaves [0, size): a caller's bug, never retried ({@link checkRange}).
   * @throws OverlaybdError with a code of docs/errors.md, and the lower layer's error as `cause`.
   */
  read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void>;
  /** Idempotent; waits for reads in flight, then closes what this blob owns. */
  close(): Promise<void>;
}

/** The one check of a range against a blob's size. @throws RangeError */
export function checkRange(
  blob: { readonly name: string; readonly size: number },
  offset: number,
  length: number,
): void {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset + length > blob.size)
    throw new RangeError(
      `Range [${offset}, ${offset + length}) leaves blob "${blob.name}" of ${blob.size} bytes`,
    );
}
