/**
 * What a device's users read, for `obd report`: which pieces were read at least once, and the first reads with their
 * times. Shared memory, written by the one thread that serves the device (an I/O worker, or main for NBD), read by
 * anybody; a reader may miss what is being written this moment.
 *
 * On the hot path a read costs a store or two into a bitmap: one bit per piece. Pieces are 4 KiB, or as large as the
 * device needs for 16 Mi of them to do: 2 MiB of bits at most, of which the kernel gives only the pages written to, each
 * for 32 Ki pieces. The log of first reads takes 96 KiB, likewise.
 */

/** Bytes of a piece, for devices of up to 64 GiB (what a converted image has by default): a block of the file systems in images. */
const MIN_PIECE = 4096;
const MAX_PIECES = 16 * 1024 * 1024;
/** The start of a program, in reads of 16 KiB each: 64 MiB. */
const FIRST_READS = 4096;
/** Doubles of an entry: time, offset, length; a negative length is a read that was not answered from local disk alone. */
const ENTRY = 3;
/** Doubles before the entries: how many there are. */
const HEAD = 1;

/** From this size on the C library maps memory of its own, which the kernel clears page by page when it is used. */
const LAZY_BYTES = 256 * 1024;

/** The memory behind a {@link ReadRecord}; can be posted to a thread. */
export interface ReadRecordMemory {
  readonly pieceSize: number;
  readonly bits: Uint8Array;
  readonly log: Float64Array;
}

/** One of the first reads. */
export interface FirstRead {
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly offset: number;
  readonly length: number;
  /** Its bytes were on local disk. */
  readonly local: boolean;
}

/** See the head of this file. */
export class ReadRecord {
  readonly memory: ReadRecordMemory;
  readonly #bits: Uint8Array;
  readonly #log: Float64Array;
  readonly #perByte: number;

  constructor(memory: ReadRecordMemory) {
    this.memory = memory;
    this.#bits = memory.bits;
    this.#log = memory.log;
    this.#perByte = 1 / memory.pieceSize;
  }

  /** An empty record of a device of `size` bytes. */
  static forSize(size: number): ReadRecord {
    let pieceSize = MIN_PIECE;
    while (size / pieceSize > MAX_PIECES) pieceSize *= 2;
    const bits = Math.ceil(size / pieceSize / 8);
    const log = HEAD + ENTRY * FIRST_READS;
    const memory = new SharedArrayBuffer(Math.max(8 * log + bits, LAZY_BYTES));
    return new ReadRecord({
      pieceSize,
      log: new Float64Array(memory, 0, log),
      bits: new Uint8Array(memory, 8 * log, bits),
    });
  }

  /** Notes a read within the device. */
  note(offset: number, length: number, local: boolean): void {
    this.noteFrom(Float64Array.of(offset, length), 0, local);
  }

  /** The same for a read whose offset and length are `words[at]` and the one behind it. Allocates nothing. */
  noteFrom(words: Float64Array, at: number, local: boolean): void {
    const offset = words[at] ?? 0;
    const length = words[at + 1] ?? 0;
    if (length === 0) return;
    // A power of two: exact.
    const first = Math.floor(offset * this.#perByte);
    const last = Math.floor((offset + length - 1) * this.#perByte);
    const bits = this.#bits;
    const end = last >>> 3;
    let byte = first >>> 3;
    let mask = 0xff << (first & 7);
    for (; byte < end; byte++) {
      bits[byte] = (bits[byte] ?? 0) | mask;
      mask = 0xff;
    }
    bits[byte] = (bits[byte] ?? 0) | (mask & (0xff >>> (7 - (last & 7))));
    const log = this.#log;
    const count = log[0] ?? 0;
    if (count >= FIRST_READS) return;
    const entry = HEAD + count * ENTRY;
    log[entry] = performance.timeOrigin + performance.now();
    log[entry + 1] = offset;
    log[entry + 2] = local ? length : -length;
    log[0] = count + 1;
  }

  /** The first reads, in order; at most {@link FIRST_READS}. */
  firstReads(): FirstRead[] {
    const log = this.#log;
    const reads: FirstRead[] = [];
    for (let i = 0, at = HEAD; i < (log[0] ?? 0); i++, at += ENTRY) {
      const length = log[at + 2] ?? 0;
      reads.push({
        time: log[at] ?? 0,
        offset: log[at + 1] ?? 0,
        length: Math.abs(length),
        local: length >= 0,
      });
    }
    return reads;
  }
}
