/**
 * The index file of an append layer: a header, then 16-byte records in the order of writes, later ones win.
 *
 * There is no checksum and no end mark, so what a crash leaves must be recognised by sense. Records are taken from the
 * start up to the first that cannot be: a torn one, zeroes, one of zero length, one that points outside the data file.
 * What comes after is not shown, even if it looks right: state must be that of one moment. A record can only be such
 * if its write was never flushed, because a flush makes the data durable first and the record after it.
 */

import { FormatError, SECTOR } from '../blob/index.js';
import { HEADER_SECTORS, HEADER_SIZE, MAX_MERGED_ENTRIES } from './format.js';
import { RwFile } from './rw-file.js';
import { entryFault } from './sealed-layer.js';
import { diskEntry, isPadding, SEGMENT_SIZE, SEGMENT_WORDS, setDiskEntry, wordsOf } from './segment.js';
import type { SegmentMap } from './segment-map.js';

/** What was found wrong in the log of a writable layer, and what was done about it. */
export interface Recovery {
  /** The sentence for the log: what, where, and what was left out. */
  readonly message: string;
  /** Records that were replayed. */
  readonly records: number;
  /** Byte of the index file where replay stopped. */
  readonly offset: number;
  /** Bytes left out. */
  readonly droppedBytes: number;
  /** Where those bytes were saved before the log was cut, if it was. */
  savedAs?: string;
}

/** Bytes read at once. */
const CHUNK = 1 << 20;

/**
 * Plays the records of `file` into `map`. Memory: one chunk, and the map.
 * @param dataSize bytes of the data file.
 * @returns bytes of the log that are good, header included, and what stopped the replay, if anything did.
 */
export async function replayLog(
  file: RwFile,
  dataSize: number,
  map: SegmentMap,
): Promise<{ end: number; recovery: Recovery | undefined }> {
  const limit = Math.floor(dataSize / SECTOR);
  const total = Math.floor((file.size - HEADER_SIZE) / SEGMENT_SIZE);
  if (total > MAX_MERGED_ENTRIES)
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot open "${file.name}": it holds ${total} records, at most ${MAX_MERGED_ENTRIES} are supported`,
      {
        source: file.name,
        expected: MAX_MERGED_ENTRIES,
        actual: total,
        hint: 'Commit the layer with overlaybd-commit',
      },
    );
  const chunk = new Uint8Array(CHUNK);
  for (let i = 0; i < total;) {
    const count = Math.min(CHUNK / SEGMENT_SIZE, total - i);
    const bytes = chunk.subarray(0, count * SEGMENT_SIZE);
    await file.read(HEADER_SIZE + i * SEGMENT_SIZE, bytes);
    const words = wordsOf(bytes);
    for (let j = 0; j < count; j++, i++) {
      if (isPadding(words, j)) continue;
      const entry = diskEntry(words, j);
      const fault = entryFault(entry, HEADER_SECTORS, limit);
      if (fault !== undefined) {
        const what = `${fault.what}: is ${fault.actual}, expected ${fault.expected}`;
        return stop(file, i, `record ${i} ${what}`);
      }
      if (entry.zeroed) map.setZeroed(entry.offset, entry.length);
      else map.setData(entry.offset, entry.length, entry.moffset);
    }
  }
  if ((file.size - HEADER_SIZE) % SEGMENT_SIZE !== 0)
    return stop(file, total, `record ${total} is torn: the file size is ${file.size}`);
  return { end: file.size, recovery: undefined };
}

function stop(file: RwFile, records: number, what: string): { end: number; recovery: Recovery } {
  const end = HEADER_SIZE + records * SEGMENT_SIZE;
  const droppedBytes = file.size - end;
  const message = `Index log "${file.name}" is damaged: ${what} (at byte ${end}). The layer is shown as it was before that; ${droppedBytes} bytes of the log are left out`;
  return { end, recovery: { message, records, offset: end, droppedBytes } };
}

/** A record to be appended, and what to do once it is. */
export interface LogRecord {
  readonly offset: number;
  readonly length: number;
  readonly moffset: number;
  readonly zeroed: boolean;
}

interface Batch {
  readonly records: readonly LogRecord[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Most records of one append: bounds its buffer; the rest wait for the next. */
const MAX_APPEND = 4096;

/**
 * Appends records in the order they were handed in, as few writes as possible, and enters each in the map once it is in the file, in
 * that same order: map and log never disagree. Bounded by the calls in flight.
 */
export class LogWriter {
  readonly #file: RwFile;
  readonly #map: SegmentMap;
  #end: number;
  #pending: Batch[] = [];
  #running = false;

  /** @param end bytes of the log that are good. */
  constructor(file: RwFile, map: SegmentMap, end: number) {
    this.#file = file;
    this.#map = map;
    this.#end = end;
  }

  /** Settles once the records are in the file (not yet durable) and in the map, or are in neither. */
  append(records: readonly LogRecord[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ records, resolve, reject });
      if (!this.#running) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#pending.length > 0) {
      let count = 0;
      let take = 0;
      for (const batch of this.#pending) {
        if (take > 0 && count + batch.records.length > MAX_APPEND) break;
        count += batch.records.length;
        take++;
      }
      const batches = this.#pending.splice(0, take);
      const words = new Uint32Array(count * SEGMENT_WORDS);
      let i = 0;
      for (const { records } of batches)
        for (const record of records) setDiskEntry(words, i++, { ...record, tag: 0 });
      try {
        await this.#file.write(this.#end, new Uint8Array(words.buffer));
      } catch (error) {
        // A part may be in the file. The next append overwrites it; after a crash it is replayed, and then writes
        // that failed have happened, which a failed write may.
        for (const batch of batches) batch.reject(error);
        continue;
      }
      this.#end += words.byteLength;
      for (const { records, resolve } of batches) {
        for (const record of records)
          if (record.zeroed) this.#map.setZeroed(record.offset, record.length);
          else this.#map.setData(record.offset, record.length, record.moffset);
        resolve();
      }
    }
    this.#running = false;
  }
}
