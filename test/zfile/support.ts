import { MemoryBlob } from '../../src/blob/index.js';
import { ZFileWriter, type ZFileSummary, type ZFileWriterOptions } from '../../src/zfile/index.js';

/** Writes `plain` as a ZFile, in pieces of `step` bytes. */
export async function zfile(
  plain: Uint8Array,
  options: ZFileWriterOptions & { readonly step?: number; readonly finalHeader?: boolean } = {},
): Promise<{ readonly bytes: Buffer; readonly summary: ZFileSummary }> {
  const pieces: Buffer[] = [];
  const writer = new ZFileWriter(
    {
      write: async (bytes) => {
        pieces.push(Buffer.from(bytes));
      },
    },
    options,
  );
  const step = options.step ?? 100_000;
  for (let at = 0; at < plain.length; at += step) await writer.write(plain.subarray(at, at + step));
  const summary = await writer.finish();
  const bytes = Buffer.concat(pieces);
  if (options.finalHeader !== false) bytes.set(summary.finalHeader);
  return { bytes, summary };
}

/** All bytes of a file of the given size. */
export async function readAll(blob: {
  size: number;
  read(offset: number, into: Uint8Array): Promise<void>;
}): Promise<Buffer> {
  const bytes = Buffer.alloc(blob.size);
  await blob.read(0, bytes);
  return bytes;
}

/** A committed LSMT layer as formats.md 2.5 lays it out, 1 GiB virtual, no parent. Entries: [word0, word1]. */
export function committedLayer(
  uuid: string,
  data: Buffer,
  entries: readonly (readonly [bigint, bigint])[],
): Buffer {
  const block = (flags: number, indexOffset: number, indexSize: number): Buffer => {
    const b = Buffer.alloc(4096);
    b.write('4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a', 0, 'hex');
    b.writeUInt32LE(390, 24);
    b.writeUInt32LE(flags, 28);
    b.writeBigUInt64LE(BigInt(indexOffset), 32);
    b.writeBigUInt64LE(BigInt(indexSize), 40);
    b.writeBigUInt64LE(2n ** 30n, 48);
    b.write(uuid, 56, 'latin1');
    b.write(NULL_UUID, 93, 'latin1');
    b.writeUInt8(1, 132);
    b.writeUInt8(1, 133);
    return b;
  };
  const index = Buffer.alloc(Math.ceil(entries.length / 256) * 4096);
  for (let i = 0; i < index.length / 16; i++) {
    const [a, b] = entries[i] ?? [2n ** 50n - 1n, 0n];
    index.writeBigUInt64LE(a, i * 16);
    index.writeBigUInt64LE(b, i * 16 + 8);
  }
  const end = 4096 + data.length;
  return Buffer.concat([block(7, 0, 0), data, index, block(6, end, index.length / 16)]);
}

/** Text of the null uuid. */
export const NULL_UUID = '00000000-0000-0000-0000-000000000000';

/** A blob in memory whose damaged bytes can be fetched again from `source`. */
export class HealingBlob extends MemoryBlob {
  refetches = 0;
  readonly #source: Uint8Array;
  constructor(bytes: Uint8Array, source: Uint8Array) {
    super(bytes);
    this.#source = source;
  }
  async refetch(offset: number, length: number): Promise<void> {
    this.refetches++;
    this.bytes.set(this.#source.subarray(offset, offset + length), offset);
  }
}
