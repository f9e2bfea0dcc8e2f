import { CRC_CHECKED, localOffset, SECTOR, type LocalFile, type ReadPlan } from '../blob/index.js';
import type { Codec } from '../native/index.js';
import { JumpTable, type JumpTableDescription } from './jump-table.js';

/** A ZFile in a local file, as plain data for I/O workers. */
export interface ZFileDescription {
  /** The file that holds the stored bytes; offset 0 is the ZFile's header. */
  readonly file: LocalFile;
  readonly table: JumpTableDescription;
  readonly size: number;
  readonly blockSize: number;
  readonly codec: Codec;
  readonly verify: boolean;
}

/** Answers synchronously which stored blocks make up a plain range. */
export class ZFilePlanner {
  /** Plain bytes of the file. */
  readonly size: number;
  readonly #file: LocalFile;
  readonly #table: JumpTable;
  readonly #blockSize: number;
  readonly #codec: number;

  constructor(description: ZFileDescription) {
    this.#file = description.file;
    this.#table = new JumpTable(description.table);
    this.size = description.size;
    this.#blockSize = description.blockSize;
    this.#codec = description.codec + (description.verify ? CRC_CHECKED : 0);
  }

  /**
   * Appends the blocks of the `length` plain bytes from `skip` bytes after the start of `sector` on, delivered from
   * `destination` on. False, and nothing appended, if a stored byte is not local or the plan is full. The caller has
   * checked the range. Allocates nothing; one descriptor per block touched.
   */
  append(sector: number, skip: number, length: number, destination: number, plan: ReadPlan): boolean {
    const before = plan.length;
    const blockSize = this.#blockSize;
    const offset = sector * SECTOR + skip;
    const end = offset + length;
    for (let block = Math.floor(offset / blockSize), at = offset; at < end; block++) {
      const blockStart = block * blockSize;
      const plainLength = Math.min(blockSize, this.size - blockStart);
      const take = Math.min(end, blockStart + plainLength) - at;
      const stored = this.#table.offset(block);
      const storedLength = this.#table.offset(block + 1) - stored;
      const fileOffset = localOffset(this.#file, stored, storedLength);
      if (
        fileOffset < 0 ||
        !plan.addBlock(
          this.#file.fd,
          fileOffset,
          storedLength,
          this.#codec,
          plainLength,
          at - blockStart,
          take,
          destination + at - offset,
        )
      ) {
        plan.length = before;
        return false;
      }
      at += take;
    }
    return true;
  }
}
