/**
 * A read plan: which stored bytes, in which codec, make up the ranges that clients asked for. TypeScript writes it,
 * the native executor carries it out (native/executor.h has the same layout). One plan holds the descriptors of many
 * commands; each command owns a run of consecutive descriptors.
 *
 * A descriptor is eight doubles, one cache line:
 *
 *   0 fd            file to read (ignored for ZERO)
 *   1 fileOffset    first stored byte
 *   2 storedLength  bytes to read from the file, crc included
 *   3 codec         ReadCodec, plus CRC_CHECKED if 4 bytes of crc follow the stored body
 *   4 plainLength   bytes the stored body must unpack to (RAW: equals `length`)
 *   5 skip          plain bytes to pass over
 *   6 length        plain bytes to deliver
 *   7 destination   offset in the command's data buffer
 */
export const PLAN_STRIDE = 8;

/** How the stored bytes are packed. LZ4 and ZSTD are also ZFile's algo numbers. */
export const ReadCodec = { RAW: 0, LZ4: 1, ZSTD: 2, ZERO: 3 } as const;
/** Added to the codec: the last 4 stored bytes are the raw CRC-32C, seed 100007, of the bytes before them. */
export const CRC_CHECKED = 16;

/** A bounded, reusable list of descriptors. Not thread-safe; one per worker. */
export class ReadPlan {
  /** Descriptors, {@link PLAN_STRIDE} doubles each; the first `length` are valid. */
  readonly words: Float64Array;
  readonly capacity: number;
  /** Number of valid descriptors. */
  length = 0;

  /** @param capacity most descriptors of one batch; 1 MiB of 4 KiB blocks needs 256. */
  constructor(capacity: number) {
    this.capacity = capacity;
    this.words = new Float64Array(capacity * PLAN_STRIDE);
  }

  clear(): void {
    this.length = 0;
  }

  /** Appends plain bytes of a file. False, and nothing appended, if the plan is full. */
  addRaw(fd: number, fileOffset: number, length: number, destination: number): boolean {
    return this.addBlock(fd, fileOffset, length, ReadCodec.RAW, length, 0, length, destination);
  }

  /** Appends zeroes. */
  addZeroes(length: number, destination: number): boolean {
    return this.addBlock(-1, 0, 0, ReadCodec.ZERO, length, 0, length, destination);
  }

  /** Appends part of one stored block; see the layout above. */
  addBlock(
    fd: number,
    fileOffset: number,
    storedLength: number,
    codec: number,
    plainLength: number,
    skip: number,
    length: number,
    destination: number,
  ): boolean {
    if (this.length === this.capacity) return false;
    const w = this.words;
    let i = this.length * PLAN_STRIDE;
    w[i++] = fd;
    w[i++] = fileOffset;
    w[i++] = storedLength;
    w[i++] = codec;
    w[i++] = plainLength;
    w[i++] = skip;
    w[i++] = length;
    w[i] = destination;
    this.length++;
    return true;
  }
}

/**
 * Answers, for one image, which local bytes make up a range. Built in every I/O worker from a plain description.
 */
export interface ReadPlanner {
  /**
   * Appends the descriptors of a range of the device to `plan`, destinations counted from 0 at its offset; or returns
   * false and leaves `plan` as it was, if any byte is not on local disk or the plan is full. The range's offset is
   * `range[at]`, its length the next element, both in bytes: an argument beyond 2^31 would be an object, made for each
   * call. Synchronous, allocates nothing. The caller has checked the range.
   */
  plan(range: Float64Array, at: number, plan: ReadPlan): boolean;
}
