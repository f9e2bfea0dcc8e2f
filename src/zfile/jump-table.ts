/**
 * Where each stored block begins. The file holds lengths (4 bytes per block); a reader needs offsets, for 10 million
 * blocks of a 40 GB layer, shared with the I/O workers. Blocks are put in groups: one float64 per group for the offset
 * of its first block, one uint16 per block for the distance from there. A group of 65536 / block size blocks, at most
 * 16, spans less than 65536 bytes without its last block even when nothing compresses:
 *
 *   block size   group   distance at most                  bytes per block
 *   4 KiB        16      15 x (4096 + 62 + 16 + 4) = 62670       2.5
 *   8 KiB         8       7 x (8192 + 60 + 16 + 4) = 57904       3
 *   32 KiB        2       1 x (32768 + 128 + 16 + 4) = 32916     6
 *   64 KiB        1       0                                      10
 *
 * (62 or so: zstd's bound for small blocks; LZ4's is lower for blocks up to 8 KiB.)
 */
import type { Codec } from '../native/index.js';
import { dropScratch, FormatError, sharedCopy, takeScratch } from '../blob/index.js';
import { CRC_SIZE, maxStoredLength } from './format.js';

/** A table as plain data: post it to a worker, and give it to {@link JumpTable} there. */
export interface JumpTableDescription {
  /** Bases, then distances. */
  readonly buffer: SharedArrayBuffer;
  readonly blocks: number;
  /** log2 of the blocks of a group. */
  readonly groupShift: number;
}

/** Offsets of stored blocks. Lookups are two array reads. */
export class JumpTable {
  readonly description: JumpTableDescription;
  readonly blocks: number;
  readonly #bases: Float64Array;
  readonly #distances: Uint16Array;
  readonly #shift: number;

  constructor(description: JumpTableDescription) {
    const { buffer, blocks, groupShift } = description;
    const groups = (blocks >>> groupShift) + 1;
    this.description = description;
    this.blocks = blocks;
    this.#shift = groupShift;
    this.#bases = new Float64Array(buffer, 0, groups);
    this.#distances = new Uint16Array(buffer, groups * 8, blocks + 1);
  }

  /** Offset of stored block `block` in the file; `block` = number of blocks gives the end of the last one. */
  offset(block: number): number {
    return (this.#bases[block >>> this.#shift] ?? NaN) + (this.#distances[block] ?? NaN);
  }

  /** Number of the first block that begins at or after `offset`; the number of blocks if none does. O(log n). */
  firstFrom(offset: number): number {
    let low = 0;
    let high = this.blocks;
    while (low < high) {
      const middle = low + ((high - low) >>> 1);
      if (this.offset(middle) < offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** What the lengths in a table must obey. */
export interface JumpTableRules {
  readonly source: string;
  readonly blocks: number;
  readonly blockSize: number;
  readonly codec: Codec;
  readonly verify: boolean;
  /** Offset of block 0. */
  readonly start: number;
  /** Offset of the table itself: where the last block must end. */
  readonly indexOffset: number;
}

/** Builds one {@link JumpTable} from the file's lengths, given piece by piece, in order. */
export class JumpTableBuilder {
  readonly #rules: JumpTableRules;
  readonly #groupShift: number;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #bases: Float64Array;
  readonly #distances: Uint16Array;
  readonly #least: number;
  readonly #most: number;
  #block = 0;
  #offset: number;

  /** Allocates the whole table: the caller has checked that the file is large enough to hold that many blocks. */
  constructor(rules: JumpTableRules) {
    this.#rules = rules;
    this.#groupShift = Math.min(4, 16 - Math.log2(rules.blockSize));
    const groups = (rules.blocks >>> this.#groupShift) + 1;
    // Each of its bytes is written.
    this.#bytes = takeScratch(groups * 8 + (rules.blocks + 1) * 2);
    this.#bases = new Float64Array(this.#bytes.buffer, 0, groups);
    this.#distances = new Uint16Array(this.#bytes.buffer, groups * 8, rules.blocks + 1);
    this.#least = rules.verify ? CRC_SIZE + 1 : 1;
    this.#most = maxStoredLength(rules.codec, rules.blockSize, rules.verify);
    this.#offset = rules.start;
  }

  /** Takes the next lengths, little-endian uint32 each. @throws FormatError OBD_FORMAT_BAD_INDEX */
  add(lengths: Uint8Array): void {
    const view = new DataView(lengths.buffer, lengths.byteOffset, lengths.byteLength);
    for (let at = 0; at < lengths.byteLength; at += 4) {
      const length = view.getUint32(at, true);
      if (length < this.#least || length > this.#most)
        throw this.#error(
          `stored length of block ${this.#block} is ${length}, expected ${this.#least} to ${this.#most}`,
        );
      this.#place();
      this.#offset += length;
      this.#block++;
    }
  }

  /** The table. @throws FormatError OBD_FORMAT_BAD_INDEX if the blocks do not end where the table begins. */
  finish(): JumpTable {
    const { blocks, indexOffset } = this.#rules;
    if (this.#block !== blocks)
      throw new TypeError(`Jump table got ${this.#block} lengths, expected ${blocks}`);
    if (this.#offset !== indexOffset)
      throw this.#error(
        `the ${blocks} blocks end at byte ${this.#offset}, expected at the jump table, byte ${indexOffset}`,
      );
    this.#place();
    const buffer = sharedCopy(this.#bytes);
    dropScratch(this.#bytes);
    return new JumpTable({ buffer, blocks, groupShift: this.#groupShift });
  }

  #place(): void {
    const group = this.#block >>> this.#groupShift;
    if (group << this.#groupShift === this.#block) this.#bases[group] = this.#offset;
    this.#distances[this.#block] = this.#offset - (this.#bases[group] ?? NaN);
  }

  #error(what: string): FormatError {
    const { source, indexOffset } = this.#rules;
    return new FormatError('OBD_FORMAT_BAD_INDEX', `Cannot open ZFile "${source}": ${what}`, {
      source,
      offset: indexOffset + 4 * this.#block,
    });
  }
}
