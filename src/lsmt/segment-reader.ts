/**
 * Reading a list of pieces: zeroes are filled in, data comes from the files, neighbours in one file are one read, and
 * a bounded number of reads is in flight at once.
 */

import { FormatError, SECTOR, type ReadOptions } from '../blob/index.js';
import type { DataFile } from './layer.js';
import type { SegmentList } from './segment-index.js';

/** Reads in flight for one request; more only queue up in the disk or the registry connection pool. */
export const READ_PARALLELISM = 16;

/** One read of a file into a part of the caller's buffer. */
interface Piece {
  readonly tag: number;
  readonly offset: number;
  readonly start: number;
  end: number;
}

/**
 * Fills `into` with the bytes that lie `skip` bytes after the start of `list`'s first piece. `list` may be reused
 * once this returns its promise.
 * @throws FormatError OBD_FORMAT_TRUNCATED if a piece leaves its file; whatever the file throws.
 */
export async function readSegments(
  list: SegmentList,
  files: readonly DataFile[],
  skip: number,
  into: Uint8Array,
  options?: ReadOptions,
): Promise<void> {
  const pieces = gather(list, skip, into);
  if (pieces.length === 0) return;
  if (pieces.length === 1) {
    for (const piece of pieces) await readPiece(piece, files, into, options);
    return;
  }
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let piece = pieces[next++]; piece !== undefined; piece = pieces[next++])
      await readPiece(piece, files, into, options);
  };
  const lanes = Array.from({ length: Math.min(READ_PARALLELISM, pieces.length) }, lane);
  // `into` must not be touched after we settle: wait for every lane, then report the first failure.
  const results = await Promise.allSettled(lanes);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

function gather(list: SegmentList, skip: number, into: Uint8Array): Piece[] {
  const pieces: Piece[] = [];
  let last: Piece | undefined;
  let at = -skip;
  for (let i = 0; i < list.length && at < into.byteLength; i++) {
    const bytes = (list.sectors[i] ?? 0) * SECTOR;
    const start = Math.max(at, 0);
    const end = Math.min(at + bytes, into.byteLength);
    const tag = list.tag[i] ?? 0;
    if (start < end) {
      if (tag < 0) into.fill(0, start, end);
      else {
        const offset = (list.moffset[i] ?? 0) * SECTOR + (start - at);
        if (last?.tag === tag && last.end === start && last.offset + (last.end - last.start) === offset)
          last.end = end;
        else pieces.push((last = { tag, offset, start, end }));
      }
    }
    at += bytes;
  }
  return pieces;
}

async function readPiece(
  piece: Piece,
  files: readonly DataFile[],
  into: Uint8Array,
  options?: ReadOptions,
): Promise<void> {
  const file = files[piece.tag];
  if (file === undefined) throw new TypeError(`Segment of file ${piece.tag}, there are ${files.length}`);
  const { blob, padsLastSector } = file;
  const stop = piece.offset + (piece.end - piece.start);
  let end = piece.end;
  if (stop > blob.size) {
    const padded = padsLastSector ? Math.ceil(blob.size / SECTOR) * SECTOR : blob.size;
    if (stop > padded)
      throw new FormatError(
        'OBD_FORMAT_TRUNCATED',
        `Cannot read "${blob.name}": bytes ${piece.offset} to ${stop} are mapped, but it ends at ${blob.size}`,
        { source: blob.name, offset: blob.size, expected: stop, actual: blob.size },
      );
    end = Math.max(piece.start, piece.end - (stop - blob.size));
    into.fill(0, end, piece.end);
  }
  if (end > piece.start) await blob.read(piece.offset, into.subarray(piece.start, end), options);
}
