/**
 * The synchronous question of the hot path: where do a blob's bytes lie on local disk? The answer is plain data that
 * can be posted to an I/O worker (file descriptors are valid in the whole process; the presence map is shared memory).
 *
 * A blob whose present bytes lie in one file at a constant shift can answer; wrappers that only move the window
 * (a slice, a tar payload) answer with another shift. Everything else has no local file and is read the general way.
 */
export interface LocalFile {
  /** Open for reading; owned by the blob that answered, valid until that blob is closed. */
  readonly fd: number;
  /** Byte 0 of the blob is byte `shift` of the file. */
  readonly shift: number;
  /** Length of the blob in bytes. */
  readonly size: number;
  /** Bytes per presence unit of the *file*; 0 when the whole file is present. */
  readonly unitSize: number;
  /** One byte per unit of the file, non-zero = present and checked; in shared memory. Null when the whole file is. */
  readonly presence: Uint8Array | null;
  /**
   * One byte per unit that readers set to 1 when they use the unit, in shared memory; the owner of the file clears it
   * when it looks for what was not used lately. Absent where nobody asks. {@link localOffset} sets it.
   */
  readonly touched?: Uint8Array;
}

/** A blob that may lie in a local file. */
export interface LocallyStored {
  /** Undefined if this blob never has a local file (for example a gzip target). Constant while open. */
  localFile(): LocalFile | undefined;
}

/** The blob's local file, if it is of a kind that has one. */
export function localFileOf(blob: object): LocalFile | undefined {
  return 'localFile' in blob ? (blob as LocallyStored).localFile() : undefined;
}

/** The same file seen through a window that starts at `offset` of the blob. */
export function sliceLocalFile(file: LocalFile, offset: number, size: number): LocalFile {
  return { ...file, shift: file.shift + offset, size };
}

/**
 * File offset of [offset, offset + length) of the blob, or -1 if a byte of it is not local. The caller has checked
 * the range. No allocation; cost is one byte read per unit touched.
 */
export function localOffset(file: LocalFile, offset: number, length: number): number {
  const start = file.shift + offset;
  const presence = file.presence;
  if (presence !== null && length > 0) {
    const touched = file.touched;
    const last = Math.floor((start + length - 1) / file.unitSize);
    for (let unit = Math.floor(start / file.unitSize); unit <= last; unit++) {
      if (presence[unit] !== 1) return -1;
      // Read first: a byte that is set already stays in every core's cache.
      if (touched !== undefined && touched[unit] === 0) touched[unit] = 1;
    }
  }
  return start;
}
