/** A run of a blob, bytes, half-open. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  /** False: reads as zeroes and takes no space. True says nothing about the bytes. */
  readonly data: boolean;
}

/** A blob that knows, without reading, which of its runs are holes. */
export interface ExtentMapped {
  /** The runs that make up [offset, offset + length), in order, without gaps; neighbours may be of one kind. */
  extents(offset: number, length: number): Iterable<Extent>;
}

/** The blob's runs, or one run of data if it does not know. */
export function extentsOf(blob: object, offset: number, length: number): Iterable<Extent> {
  if ('extents' in blob) return (blob as ExtentMapped).extents(offset, length);
  return length > 0 ? [{ offset, length, data: true }] : [];
}
