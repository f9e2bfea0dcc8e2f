/** A planner over a table of stored blocks of one size, for tests and benchmarks of the executor. */
import { ReadCodec, type ReadPlan, type ReadPlanner } from '../../src/blob/index.js';

export interface StoredBlock {
  readonly offset: number;
  /** Bytes in the file, crc included. */
  readonly stored: number;
  /** ReadCodec, perhaps with CRC_CHECKED. */
  readonly codec: number;
}

export interface TableDescription {
  readonly fd: number;
  readonly blockSize: number;
  /** Four doubles per block: offset, stored, codec, whether it is local; in shared memory, so that a test can change it. */
  readonly blocks: Float64Array;
}

/** Packs a table for {@link TableDescription}. */
export function packTable(blocks: readonly StoredBlock[]): Float64Array {
  const words = new Float64Array(new SharedArrayBuffer(blocks.length * 32));
  blocks.forEach((b, i) => {
    words.set([b.offset, b.stored, b.codec, 1], i * 4);
  });
  return words;
}

export function createPlanner({ fd, blockSize, blocks }: TableDescription): ReadPlanner {
  return {
    plan(range: Float64Array, index: number, plan: ReadPlan): boolean {
      const offset = range[index] ?? 0;
      const length = range[index + 1] ?? 0;
      const before = plan.length;
      for (let done = 0; done < length;) {
        const at = offset + done;
        const skip = at % blockSize;
        const part = Math.min(blockSize - skip, length - done);
        const i = ((at - skip) / blockSize) * 4;
        const codec = blocks[i + 2] ?? 0;
        const start = blocks[i] ?? 0;
        const added =
          blocks[i + 3] === 1 &&
          (codec === ReadCodec.RAW
            ? plan.addRaw(fd, start + skip, part, done)
            : codec === ReadCodec.ZERO
              ? plan.addZeroes(part, done)
              : plan.addBlock(fd, start, blocks[i + 1] ?? 0, codec, blockSize, skip, part, done));
        if (!added) {
          plan.length = before;
          return false;
        }
        done += part;
      }
      return true;
    },
  };
}
