import { FormatError, roundUp, SECTOR } from '../blob/index.js';
import { encodeHeader, HeaderFlag, MAX_SEALED_ENTRIES } from './format.js';
import type { LayerInfo } from './layer.js';
import type { RwFile } from './rw-file.js';
import {
  diskEntry,
  SEGMENT_SIZE,
  SEGMENT_WORDS,
  segmentMoffset,
  setDiskEntry,
  type Segments,
} from './segment.js';

/**
 * Seals a writable layer's data file where it lies (formats.md 2.6): index and trailer are appended, durably, the
 * trailer last, so a crash leaves a layer that is still writable or one that is sealed. Garbage blocks stay.
 * @throws FormatError OBD_FORMAT_LIMIT if readers would refuse the index.
 */
export async function sealDataFile(
  file: RwFile,
  segments: Segments,
  info: LayerInfo,
  sparse: boolean,
): Promise<void> {
  const { count } = segments;
  if (count > MAX_SEALED_ENTRIES)
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot seal "${file.name}": its index has ${count} entries, readers accept ${MAX_SEALED_ENTRIES}`,
      {
        source: file.name,
        expected: MAX_SEALED_ENTRIES,
        actual: count,
        hint: 'Commit the layer instead: that joins entries',
      },
    );
  const indexOffset = roundUp(file.size, SECTOR);
  const words = new Uint32Array(roundUp(count * SEGMENT_SIZE, SECTOR) / 4);
  words.set(segments.words.subarray(0, count * SEGMENT_WORDS));
  for (let i = 0; i < count; i++)
    setDiskEntry(words, i, { ...diskEntry(words, i), moffset: segmentMoffset(segments.words, i), tag: 0 });
  await file.sync();
  await file.write(indexOffset, new Uint8Array(words.buffer));
  await file.sync();
  const trailer = encodeHeader({
    flags: HeaderFlag.DATA | HeaderFlag.SEALED | (sparse ? HeaderFlag.SPARSE : 0),
    indexOffset,
    indexCount: count,
    virtualSize: info.virtualSize,
    uuid: info.uuid,
    parentUuid: info.parentUuid,
  });
  await file.write(indexOffset + words.byteLength, trailer);
  await file.sync();
}
