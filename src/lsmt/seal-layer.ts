import { FormatError, roundUp, SECTOR } from '../blob/index.js';
import { encodeHeader, HEADER_SIZE, HeaderFlag, MAX_SEALED_ENTRIES } from './format.js';
import type { LayerInfo } from './layer.js';
import { RwFile } from './rw-file.js';
import { readRwHeader, sealOf } from './rw-header.js';
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

/**
 * Takes back what {@link sealDataFile} appended to an open file of `size` bytes, all of it or as far as it came, durably.
 * If that fails, flushes of the file fail from then on: what is on disk may be sealed.
 */
export async function cutSeal(file: RwFile, size: number): Promise<void> {
  try {
    await file.truncate(size);
    await file.sync();
  } catch (error) {
    file.distrust(error);
    throw error;
  }
}

/** Whether a data file was sealed where it lies; undefined while something has it open for writing. @throws FormatError, IoError */
export async function sealedInPlace(path: string): Promise<boolean | undefined> {
  const file = await RwFile.open(path, 'read');
  try {
    try {
      file.lock('read');
    } catch {
      return undefined;
    }
    return (await sealOf(file, await readRwHeader(file, 'data'))) !== undefined;
  } finally {
    await file.close();
  }
}

/**
 * Takes back what {@link sealDataFile} appended, durably: the layer is writable again, with its index file if it has one.
 * @returns false if the data file was not sealed; then nothing is changed.
 * @throws FormatError, IoError; IoError too if something uses the layer.
 */
export async function unsealDataFile(path: string): Promise<boolean> {
  const file = await RwFile.open(path, 'write');
  try {
    file.lock('write');
    const trailer = await sealOf(file, await readRwHeader(file, 'data'));
    if (trailer === undefined) return false;
    const { indexOffset } = trailer;
    if (indexOffset < HEADER_SIZE || indexOffset > file.size - HEADER_SIZE)
      throw new FormatError(
        'OBD_FORMAT_BAD_TRAILER',
        `Cannot unseal "${path}": its index is at byte ${indexOffset}, expected one of the file's ${file.size}`,
        { source: path, offset: file.size - HEADER_SIZE },
      );
    await file.truncate(Number(indexOffset));
    await file.sync();
    return true;
  } finally {
    await file.close();
  }
}
