/**
 * Opening sealed layers (formats.md 1.3): committed ones, ones sealed in place, and warp files (section 3).
 *
 * The trailer is authoritative for everything; the header only proves the type. The file is untrusted: every number is
 * checked against the file's size before it is used, as exact integers, and nothing is allocated on a count's word.
 * After this no read of the layer can leave the file.
 */

import { dropScratch, FormatError, takeScratch, type ReadableBlob } from '../blob/index.js';
import {
  blockError,
  HEADER_SECTORS,
  HEADER_SIZE,
  HeaderFlag,
  MAX_SEALED_ENTRIES,
  parseHeader,
  type BlockPlace,
  type LayerHeader,
} from './format.js';
import type { DataFile, Layer, LayerInfo } from './layer.js';
import {
  diskEntry,
  isPadding,
  MAX_SECTORS,
  SEGMENT_SIZE,
  setSegment,
  wordsOf,
  type DiskEntry,
  type Segments,
} from './segment.js';
import { SegmentIndex } from './segment-index.js';

/** A sealed layer, with what its trailer and header say. */
export interface SealedLayer extends Layer {
  readonly info: SealedLayerInfo;
}

/** {@link LayerInfo} and where things lie in the file. */
export interface SealedLayerInfo extends LayerInfo {
  readonly header: LayerHeader;
  readonly trailer: LayerHeader;
  readonly fileSize: number;
  /** Bytes. */
  readonly indexOffset: number;
  /** Entries on disk, padding included. */
  readonly indexCount: number;
  readonly paddingEntries: number;
}

/**
 * Opens a sealed layer. The layer owns `blob` once this succeeds, and closes it; if it fails, the caller still does.
 * Reads the two ends and the index, nothing else.
 * @throws FormatError naming field, expected, actual, offset and file.
 */
export async function openSealedLayer(blob: ReadableBlob): Promise<SealedLayer> {
  return open(blob, [{ blob, padsLastSector: false }]);
}

/**
 * Opens a TurboOCI warp file over its target, the original uncompressed tar stream. Tag 0 is data in the warp file,
 * tag 1 data in the target; mappings that the target is too short for fail when they are read. Owns both blobs once
 * this succeeds.
 * @throws FormatError as {@link openSealedLayer}.
 */
export async function openWarpLayer(blob: ReadableBlob, target: ReadableBlob): Promise<SealedLayer> {
  return open(blob, [
    { blob, padsLastSector: false },
    { blob: target, padsLastSector: true },
  ]);
}

async function open(blob: ReadableBlob, files: readonly DataFile[]): Promise<SealedLayer> {
  const ends = await readEnds(blob);
  const { header, trailer, indexOffset, indexCount } = ends;
  const virtualSize = Number(trailer.virtualSize);
  if (!Number.isSafeInteger(virtualSize))
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot open layer "${blob.name}": virtual size is ${trailer.virtualSize.toString()} bytes, at most ${Number.MAX_SAFE_INTEGER} are supported`,
      { source: blob.name, offset: blob.size - HEADER_SIZE, actual: trailer.virtualSize.toString() },
    );
  const bytes = takeScratch(indexCount * SEGMENT_SIZE);
  if (bytes.byteLength > 0) await blob.read(indexOffset, bytes);
  const place: IndexPlace = { source: blob.name, offset: indexOffset };
  const segments = decodeIndex(bytes, place, Math.floor(indexOffset / 512), files.length);
  const index = SegmentIndex.build(segments);
  dropScratch(bytes);
  let closed: Promise<void> | undefined;
  return {
    name: blob.name,
    info: {
      virtualSize,
      uuid: trailer.uuid,
      parentUuid: trailer.parentUuid,
      userTag: trailer.userTag,
      header,
      trailer,
      fileSize: blob.size,
      indexOffset,
      indexCount,
      paddingEntries: indexCount - segments.count,
    },
    index,
    files,
    close() {
      closed ??= closeAll(files);
      return closed;
    },
  };
}

/** Closes every file; the first failure is reported after all have been tried. */
async function closeAll(files: readonly DataFile[]): Promise<void> {
  const results = await Promise.allSettled(files.map(({ blob }) => blob.close()));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** Both ends of a sealed layer file, checked against each other and the file's size. */
export interface LayerEnds {
  readonly header: LayerHeader;
  readonly trailer: LayerHeader;
  readonly indexOffset: number;
  readonly indexCount: number;
}

/**
 * Reads and checks header and trailer.
 * @throws FormatError OBD_FORMAT_TRUNCATED, _BAD_MAGIC, _BAD_HEADER, _BAD_TRAILER, _BAD_INDEX or _LIMIT.
 */
export async function readEnds(blob: ReadableBlob): Promise<LayerEnds> {
  const source = blob.name;
  const block = takeScratch(HEADER_SIZE);
  if (blob.size < HEADER_SIZE)
    throw truncated(
      blob,
      `file is ${blob.size} bytes, too short for a header of ${HEADER_SIZE}`,
      HEADER_SIZE,
    );
  await blob.read(0, block);
  const at: BlockPlace = { source, offset: 0, kind: 'header' };
  const header = parseHeader(block, at);
  requireFlag(at, header, HeaderFlag.HEADER, true, 'header bit');
  requireFlag(at, header, HeaderFlag.DATA, true, 'data file bit');
  if (blob.size < 2 * HEADER_SIZE)
    throw truncated(
      blob,
      `trailer is missing: file is ${blob.size} bytes, too short for header and trailer`,
      2 * HEADER_SIZE,
    );
  if (blob.size % SEGMENT_SIZE !== 0)
    throw truncated(
      blob,
      `trailer is missing: file size ${blob.size} is not a multiple of ${SEGMENT_SIZE}`,
      blob.size - (blob.size % SEGMENT_SIZE),
    );
  const end: BlockPlace = { source, offset: blob.size - HEADER_SIZE, kind: 'trailer' };
  await blob.read(end.offset, block);
  const trailer = parseHeader(block, end);
  requireFlag(end, trailer, HeaderFlag.HEADER, false, 'header bit');
  requireFlag(end, trailer, HeaderFlag.DATA, true, 'data file bit');
  requireFlag(end, trailer, HeaderFlag.SEALED, true, 'sealed bit');
  dropScratch(block);
  return { header, trailer, ...indexPlace(blob, trailer) };
}

function truncated(blob: ReadableBlob, what: string, expected: number): FormatError {
  return new FormatError('OBD_FORMAT_TRUNCATED', `Cannot open layer "${blob.name}": ${what}`, {
    source: blob.name,
    offset: blob.size,
    expected,
    actual: blob.size,
    hint: 'The file was cut off: fetch it again',
  });
}

function requireFlag(at: BlockPlace, block: LayerHeader, bit: number, wanted: boolean, name: string): void {
  if (((block.flags & bit) !== 0) === wanted) return;
  const hint =
    bit === HeaderFlag.SEALED
      ? 'The layer is not sealed: open it as a writable layer, or commit it'
      : undefined;
  throw blockError(
    { ...at },
    `flags 0x${block.flags.toString(16)}: ${name}`,
    wanted ? 1 : 0,
    wanted ? 0 : 1,
    hint,
  );
}

/** Index position and count, checked as exact integers: none of these can wrap. */
function indexPlace(blob: ReadableBlob, trailer: LayerHeader): { indexOffset: number; indexCount: number } {
  const source = blob.name;
  const trailerOffset = blob.size - HEADER_SIZE;
  const { indexOffset, indexCount } = trailer;
  if (indexCount > BigInt(MAX_SEALED_ENTRIES))
    throw new FormatError(
      'OBD_FORMAT_LIMIT',
      `Cannot open layer "${source}": index count is ${indexCount.toString()}, at most ${MAX_SEALED_ENTRIES} entries are allowed (at byte ${trailerOffset + 40})`,
      { source, offset: trailerOffset + 40, expected: MAX_SEALED_ENTRIES, actual: indexCount.toString() },
    );
  if (indexOffset < BigInt(HEADER_SIZE) || indexOffset > BigInt(trailerOffset))
    throw new FormatError(
      'OBD_FORMAT_BAD_INDEX',
      `Cannot open layer "${source}": index offset is ${indexOffset.toString()}, expected ${HEADER_SIZE} to ${trailerOffset}: it lies outside the file (at byte ${trailerOffset + 32})`,
      {
        source,
        offset: trailerOffset + 32,
        expected: `${HEADER_SIZE} to ${trailerOffset}`,
        actual: indexOffset.toString(),
      },
    );
  const offset = Number(indexOffset);
  const count = Number(indexCount);
  const room = Math.floor((trailerOffset - offset) / SEGMENT_SIZE);
  if (count > room)
    throw new FormatError(
      'OBD_FORMAT_BAD_INDEX',
      `Cannot open layer "${source}": index count is ${count}, but only ${room} entries fit between byte ${offset} and the trailer (at byte ${trailerOffset + 40})`,
      { source, offset: trailerOffset + 40, expected: room, actual: count },
    );
  return { indexOffset: offset, indexCount: count };
}

/** Where an index lies, for errors. */
export interface IndexPlace {
  readonly source: string;
  readonly offset: number;
}

/** The error for entry `i` of an index. */
export function entryError(
  place: IndexPlace,
  i: number,
  what: string,
  expected: string | number,
  actual: string | number,
): FormatError {
  const offset = place.offset + i * SEGMENT_SIZE;
  return new FormatError(
    'OBD_FORMAT_BAD_INDEX',
    `Cannot open layer "${place.source}": index entry ${i} ${what}: is ${actual}, expected ${expected} (at byte ${offset})`,
    { source: place.source, offset, expected, actual },
  );
}

/**
 * What is wrong with one entry by itself, or undefined.
 * @param lowest first sector of the data of its file.
 * @param limit first sector after it.
 */
export function entryFault(
  entry: DiskEntry,
  lowest: number,
  limit: number,
): { what: string; expected: string; actual: string | number } | undefined {
  const { offset, length, moffset, zeroed } = entry;
  if (length === 0) return { what: 'has zero length', expected: '1 to 16383 sectors', actual: 0 };
  if (offset + length > MAX_SECTORS)
    return {
      what: 'ends beyond what is supported',
      expected: `at most sector ${MAX_SECTORS}`,
      actual: offset + length,
    };
  const name = zeroed ? 'zeroed, with moffset' : 'moffset';
  if (moffset < lowest)
    return { what: `${name} points into the header`, expected: `at least sector ${lowest}`, actual: moffset };
  const end = zeroed ? moffset : moffset + length;
  if (end > limit)
    return {
      what: `${name} points beyond the data area`,
      expected: `to end at sector ${limit} or before`,
      actual: end,
    };
  return undefined;
}

/**
 * Decodes and checks the index of a sealed file. With one file, tags are ignored (readers overwrite them); with two,
 * they are kept less the smallest one, and only data of the first file is checked against the data area.
 * `bytes` is reused for the result.
 * @param limit first sector after the data area.
 */
export function decodeIndex(
  bytes: Uint8Array,
  place: IndexPlace,
  limit: number,
  fileCount: number,
): Segments {
  const words = wordsOf(bytes);
  const total = Math.floor(bytes.byteLength / SEGMENT_SIZE);
  let lowestTag = 0;
  if (fileCount > 1) {
    lowestTag = 255;
    for (let i = 0; i < total; i++)
      if (!isPadding(words, i)) lowestTag = Math.min(lowestTag, diskEntry(words, i).tag);
  }
  let count = 0;
  let end = 0;
  for (let i = 0; i < total; i++) {
    if (isPadding(words, i)) continue;
    const entry = diskEntry(words, i);
    const tag = fileCount > 1 ? entry.tag - lowestTag : 0;
    if (tag >= fileCount)
      throw entryError(place, i, 'tag', `${lowestTag} to ${lowestTag + fileCount - 1}`, entry.tag);
    const own = fileCount === 1 || (tag === 0 && !entry.zeroed);
    const fault = own ? entryFault(entry, HEADER_SECTORS, limit) : entryFault(entry, 0, MAX_SECTORS);
    if (fault !== undefined) throw entryError(place, i, fault.what, fault.expected, fault.actual);
    if (entry.offset < end)
      throw entryError(
        place,
        i,
        'overlaps the entry before it or is out of order: its offset',
        `at least sector ${end}`,
        entry.offset,
      );
    end = entry.offset + entry.length;
    setSegment(words, count++, entry.offset, entry.length, entry.moffset, entry.zeroed, tag);
  }
  return { words, count };
}
