import { localFileOf, sliceLocalFile, type LocalFile, type LocallyStored } from './local-file.js';
import { refetchableOf, type ForwardsRefetch, type RefetchableBlob } from './refetchable-blob.js';
import { checkRange, type ReadableBlob, type ReadOptions } from './readable-blob.js';

/** A window on another blob. Closing it closes the other: a slice owns what it looks through. */
export class SliceBlob implements ReadableBlob, LocallyStored, ForwardsRefetch {
  readonly name: string;
  readonly size: number;
  /** Offset of this window in the other blob. */
  readonly start: number;
  readonly #inner: ReadableBlob;

  /** @throws RangeError if [start, start + size) leaves `inner`. */
  constructor(inner: ReadableBlob, start: number, size: number) {
    checkRange(inner, start, size);
    this.#inner = inner;
    this.start = start;
    this.name = inner.name;
    this.size = size;
  }

  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    checkRange(this, offset, into.byteLength);
    await this.#inner.read(this.start + offset, into, options);
  }

  localFile(): LocalFile | undefined {
    const file = localFileOf(this.#inner);
    return file && sliceLocalFile(file, this.start, this.size);
  }

  refetchable(): RefetchableBlob | undefined {
    const inner = refetchableOf(this.#inner);
    return (
      inner && {
        refetch: async (offset, length, options) => {
          checkRange(this, offset, length);
          await inner.refetch(this.start + offset, length, options);
        },
      }
    );
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}
