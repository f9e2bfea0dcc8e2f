/**
 * The parts of a sealed layer around its data, for writers that place the data themselves: header first, data in any
 * order, then index and trailer (formats.md 1). Readers do not care where a segment's data lies.
 */
import { FormatError, SECTOR } from '../blob/index.js';
import { encodeHeader, HEADER_SECTORS, HeaderFlag, MAX_SEALED_ENTRIES } from './format.js';
import { PADDING_OFFSET, SEGMENT_WORDS, setDiskEntry } from './segment.js';

/** Fields of a layer. */
export interface PlacedLayerFields {
  readonly virtualSize: number;
  readonly uuid: string | null;
  readonly parentUuid: string | null;
}

/** A run of the disk, in bytes: whole blocks of 4 KiB. */
export interface PlacedRun {
  readonly offset: number;
  readonly length: number;
  /** Where its data lies in the layer file; undefined: it reads as zeroes. */
  readonly position: number | undefined;
}

/** Whole sectors of one entry, a multiple of 4 KiB: 14 bits would hold 16383. */
const MAX_SECTORS = 16376;
/** Entries that an index is padded to a multiple of, as the reference does. */
const INDEX_UNIT = 256;

/** The header. Data follows it directly. */
export function placedLayerHeader(fields: PlacedLayerFields): Uint8Array {
  const { HEADER, DATA, SEALED } = HeaderFlag;
  return encodeHeader({ ...fields, flags: HEADER | DATA | SEALED });
}

/**
 * Index and trailer, which follow the data directly.
 * @param runs ascending and disjoint.
 * @param dataEnd bytes of the file before the index, a multiple of 512.
 * @throws FormatError OBD_FORMAT_LIMIT if the index would be too large for readers.
 */
export function placedLayerTail(
  runs: readonly PlacedRun[],
  dataEnd: number,
  fields: PlacedLayerFields,
): readonly [index: Uint8Array, trailer: Uint8Array] {
  let count = 0;
  for (const run of runs) count += Math.ceil(run.length / SECTOR / MAX_SECTORS);
  const padded = Math.ceil(count / INDEX_UNIT) * INDEX_UNIT;
  if (padded > MAX_SEALED_ENTRIES)
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot write a layer: its index needs ${count} entries, readers accept ${MAX_SEALED_ENTRIES}`,
      { expected: MAX_SEALED_ENTRIES, actual: count, hint: 'Split the changes over several layers' },
    );
  const words = new Uint32Array(padded * SEGMENT_WORDS);
  let i = 0;
  for (const { offset, length, position } of runs) {
    for (let done = 0; done < length; done += MAX_SECTORS * SECTOR)
      setDiskEntry(words, i++, {
        offset: (offset + done) / SECTOR,
        length: Math.min(MAX_SECTORS, (length - done) / SECTOR),
        // A zeroed entry's place means nothing, but readers check it.
        moffset: position === undefined ? HEADER_SECTORS : (position + done) / SECTOR,
        zeroed: position === undefined,
        tag: 0,
      });
  }
  for (; i < padded; i++)
    setDiskEntry(words, i, { offset: PADDING_OFFSET, length: 0, moffset: 0, zeroed: false, tag: 0 });
  const { DATA, SEALED } = HeaderFlag;
  const trailer = encodeHeader({
    ...fields,
    flags: DATA | SEALED,
    indexOffset: dataEnd,
    indexCount: padded,
  });
  return [new Uint8Array(words.buffer), trailer];
}
