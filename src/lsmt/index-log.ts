/**
 * The index file of an append layer: a header, then 16-byte records in the order of writes, later ones win.
 *
 * There is no checksum and no end mark, so what a crash leaves must be recognised by sense. Records are taken from the
 * start up to the first that cannot be: a torn one, zeroes, one of zero length, one that points outside the data file.
 * What comes after is not shown, even if it looks right: state must be that of one moment. A record can only be such
 * if its write was never flushed, because a flush makes the data durable first and the record after it.
 */

import { FormatError, IoError, SECTOR } from '../blob/index.js';
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
    if (map.length > MAX_MERGED_ENTRIES)
      throw new FormatError(
        'OBD_FORMAT_LIMIT',
        `Cannot open "${file.name}": its records make more than ${MAX_MERGED_ENTRIES} segments`,
        { source: file.name, expected: MAX_MERGED_ENTRIES, actual: map.length },
      );
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

/** A record to be appended. */
export interface LogRecord {
  readonly offset: number;
  readonly length: number;
  /** Where the data is; for zeroes whatever {@link LogWriter} is told to write. */
  readonly moffset: number;
  readonly zeroed: boolean;
}

interface Batch {
  readonly records: readonly LogRecord[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Work that wants log and map to stand still. */
interface Turn {
  readonly work: () => Promise<void>;
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
  readonly #map: SegmentMap;
  readonly #zeroMoffset: () => number;
  readonly #maxRecords: number;
  #file: RwFile;
  #end: number;
  #stray = false;
  #pending: (Batch | Turn)[] = [];
  #running = false;
  #observer: ((words: Uint32Array) => void) | undefined;

  /**
   * @param state `end`: bytes of the log that are good; `zeroMoffset`: sector to write into records of zeroes;
   * `maxRecords`: smaller only in tests.
   */
  constructor(
    file: RwFile,
    map: SegmentMap,
    state: { end: number; zeroMoffset: () => number; maxRecords?: number },
  ) {
    this.#file = file;
    this.#map = map;
    this.#end = state.end;
    this.#zeroMoffset = state.zeroMoffset;
    this.#maxRecords = state.maxRecords ?? MAX_MERGED_ENTRIES;
  }

  /** The file that is appended to now. */
  get file(): RwFile {
    return this.#file;
  }

  /** Records in the log. */
  get records(): number {
    return (this.#end - HEADER_SIZE) / SEGMENT_SIZE;
  }

  /** Records that it may still take. */
  get room(): number {
    return this.#maxRecords - this.records;
  }

  /** Settles once the records are in the file (not yet durable) and in the map, or are in neither. */
  append(records: readonly LogRecord[]): Promise<void> {
    return this.#enqueue({ records });
  }

  /** Runs `work` between two appends: while it runs log and map change by {@link appendInTurn} and {@link replaceInTurn} only. */
  inTurn(work: () => Promise<void>): Promise<void> {
    return this.#enqueue({ work });
  }

  /** {@link append} for who has the turn. */
  async appendInTurn(records: readonly LogRecord[]): Promise<void> {
    if (records.length > this.room)
      throw new IoError(
        'OBD_IO_NO_SPACE',
        `Cannot write to "${this.#file.name}": it holds ${this.records} records, readers accept ${this.#maxRecords}`,
        { source: this.#file.name, hint: 'Compact the layer with obd compact, or commit it' },
      );
    const words = new Uint32Array(records.length * SEGMENT_WORDS);
    const zeroMoffset = this.#zeroMoffset();
    records.forEach((record, i) => {
      setDiskEntry(words, i, {
        offset: record.offset,
        length: record.length,
        moffset: record.zeroed ? zeroMoffset : record.moffset,
        zeroed: record.zeroed,
        tag: 0,
      });
    });
    try {
      await this.#file.write(this.#end, new Uint8Array(words.buffer));
    } catch (error) {
      // A part may be in the file. The next append overwrites it; after a crash it is replayed, and then writes
      // that failed have happened, which a failed write may.
      this.#stray = true;
      throw error;
    }
    this.#end += words.byteLength;
    this.#stray = false;
    this.#observer?.(words);
    for (const record of records)
      if (record.zeroed) this.#map.setZeroed(record.offset, record.length);
      else this.#map.setData(record.offset, record.length, record.moffset);
  }

  /** Cuts off what a failed append may have left, for who has the turn. */
  async trimInTurn(): Promise<void> {
    if (!this.#stray) return;
    await this.#file.truncate(this.#end);
    this.#stray = false;
  }

  /** Goes on in another file, which says the same; for who has the turn. The caller closes the old one. */
  replaceInTurn(file: RwFile, end: number): void {
    this.#file = file;
    this.#end = end;
    this.#stray = false;
  }

  /** Shows every record that is appended from now on, as it is on disk, until told otherwise; one observer at a time. */
  observe(observer: ((words: Uint32Array) => void) | undefined): void {
    this.#observer = observer;
  }

  #enqueue(
    item: { readonly records: readonly LogRecord[] } | { readonly work: () => Promise<void> },
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ ...item, resolve, reject });
      if (!this.#running) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#pending.length > 0) {
      const turn = this.#pending[0];
      if (turn !== undefined && 'work' in turn) {
        this.#pending.shift();
        await turn.work().then(turn.resolve, turn.reject);
        continue;
      }
      const batches = this.#take();
      try {
        const [only] = batches;
        const records =
          only !== undefined && batches.length === 1
            ? only.records
            : batches.flatMap((batch) => batch.records);
        await this.appendInTurn(records);
      } catch (error) {
        for (const batch of batches) batch.reject(error);
        continue;
      }
      for (const batch of batches) batch.resolve();
    }
    this.#running = false;
  }

  /** The batches at the head of the queue that make one append. */
  #take(): Batch[] {
    const batches: Batch[] = [];
    let count = 0;
    for (const item of this.#pending) {
      if ('work' in item || (batches.length > 0 && count + item.records.length > MAX_APPEND)) break;
      count += item.records.length;
      batches.push(item);
    }
    this.#pending.splice(0, batches.length);
    return batches;
  }
}
