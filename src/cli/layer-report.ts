/** What a stored layer is made of, as plain data: its wrappings, headers, tables and index. For `obd inspect`. */
import { MemoryBlob, OverlaybdError, SliceBlob, type ReadableBlob } from '../blob/index.js';
import {
  diskEntry,
  hasLayerMagic,
  HEADER_SIZE,
  HeaderFlag,
  isPadding,
  isZeroed,
  openSealedLayer,
  openWarpLayer,
  parseHeader,
  segmentLength,
  segmentStart,
  segmentTag,
  wordsOf,
  type LayerHeader,
  type SealedLayer,
  type Segments,
} from '../lsmt/index.js';
import { Codec } from '../native/index.js';
import { tarPayload } from '../tar/index.js';
import { isZFile, ZFileReader } from '../zfile/index.js';

/** The first fault met; what was read before it is in the report. */
export interface FaultReport {
  readonly code: string;
  readonly message: string;
  readonly offset?: number;
}

/** A tar wrapper. */
export interface TarReport {
  readonly payloadOffset: number;
  readonly payloadSize: number;
}

/** A ZFile. Bytes. */
export interface ZFileReport {
  readonly codec: string;
  readonly blockSize: number;
  readonly blocks: number;
  readonly plainSize: number;
  readonly storedSize: number;
  readonly blockChecksums: boolean;
  readonly legacyHeader: boolean;
  readonly flags: number;
  readonly indexOffset: number;
  readonly indexCrc: number;
  /** Stored lengths, checksums included; absent if there are no blocks. */
  readonly storedBlock?: { readonly least: number; readonly most: number; readonly mean: number };
}

/** A header or trailer of LSMT. */
export interface HeaderReport {
  readonly flags: number;
  readonly indexOffset: string;
  readonly indexCount: string;
  readonly virtualSize: string;
  readonly uuid: string | null;
  readonly parentUuid: string | null;
  readonly userTag: string;
}

/** How much of a disk an index speaks of. Bytes where nothing else is said. */
export interface MappingReport {
  readonly segments: number;
  readonly dataSegments: number;
  readonly dataBytes: number;
  readonly zeroedSegments: number;
  readonly zeroedBytes: number;
  /** Sectors; absent if the index is empty. */
  readonly firstSector?: number;
  readonly endSector?: number;
}

/** An LSMT file. */
export interface LsmtReport {
  readonly kind: 'committed' | 'sealed in place' | 'warp' | 'writable data' | 'writable index' | 'unknown';
  readonly sparse: boolean;
  readonly header: HeaderReport;
  readonly trailer?: HeaderReport;
  readonly virtualSize?: number;
  readonly indexOffset?: number;
  readonly indexCount?: number;
  readonly paddingEntries?: number;
  readonly tagsOnDisk?: readonly number[];
  readonly mapping?: MappingReport;
  /** Only if asked for: [offset, length, moffset or "zero", tag on disk], sectors. */
  index?: readonly (readonly [number, number, number | 'zero', number])[];
}

/** Everything about one stored layer. */
export interface LayerReport {
  readonly name: string;
  readonly storedSize: number;
  readonly tar?: TarReport;
  readonly zfile?: ZFileReport;
  readonly lsmt?: LsmtReport;
  readonly fault?: FaultReport;
}

type Draft = { -readonly [K in keyof LayerReport]: LayerReport[K] };

/** A report, and the layer if it could be opened: then it owns the blob, else the caller still does. */
export interface InspectedLayer {
  readonly report: LayerReport;
  readonly layer: SealedLayer | undefined;
}

/** The fault as plain data. Programmer's errors pass. */
export function faultOf(error: unknown): FaultReport {
  if (!(error instanceof OverlaybdError)) throw error;
  return {
    code: error.code,
    message: error.message,
    ...(error.offset === undefined ? {} : { offset: error.offset }),
  };
}

/**
 * Looks at a stored layer from the outside in, as far as it goes.
 * @param withIndex put the index's entries into the report.
 * @param target of a warp layer; without it, its mappings into the target are shown but cannot be read.
 */
export async function inspectLayer(
  stored: ReadableBlob,
  withIndex: boolean,
  target?: ReadableBlob,
): Promise<InspectedLayer> {
  const report: Draft = { name: stored.name, storedSize: stored.size };
  try {
    const payload = await tarPayload(stored);
    if (payload !== stored)
      report.tar = {
        payloadOffset: payload instanceof SliceBlob ? payload.start : 0,
        payloadSize: payload.size,
      };
    const start = new Uint8Array(Math.min(HEADER_SIZE, payload.size));
    await payload.read(0, start);
    let plain = payload;
    if (isZFile(start)) {
      const zfile = await ZFileReader.open(payload);
      report.zfile = zfileReport(zfile, payload.size);
      plain = zfile;
    }
    const layer = await inspectLsmt(plain, report, withIndex, target);
    return { report, layer };
  } catch (error) {
    report.fault = faultOf(error);
    return { report, layer: undefined };
  }
}

function zfileReport(zfile: ZFileReader, storedSize: number): ZFileReport {
  const { end } = zfile;
  let least = Infinity;
  let most = 0;
  let sum = 0;
  for (let block = 0; block < end.blocks; block++) {
    const { length } = zfile.storedBlock(block);
    least = Math.min(least, length);
    most = Math.max(most, length);
    sum += length;
  }
  return {
    codec: end.codec === Codec.LZ4 ? 'lz4' : 'zstd',
    blockSize: end.blockSize,
    blocks: end.blocks,
    plainSize: end.plainSize,
    storedSize,
    blockChecksums: end.verify,
    legacyHeader: end.legacy,
    flags: end.flags,
    indexOffset: end.indexOffset,
    indexCrc: end.indexCrc,
    ...(end.blocks > 0 ? { storedBlock: { least, most, mean: Math.round(sum / end.blocks) } } : {}),
  };
}

function headerReport(header: LayerHeader): HeaderReport {
  return {
    flags: header.flags,
    indexOffset: header.indexOffset.toString(),
    indexCount: header.indexCount.toString(),
    virtualSize: header.virtualSize.toString(),
    uuid: header.uuid,
    parentUuid: header.parentUuid,
    userTag: Buffer.from(header.userTag).toString('utf8'),
  };
}

async function inspectLsmt(
  plain: ReadableBlob,
  report: Draft,
  withIndex: boolean,
  target: ReadableBlob | undefined,
): Promise<SealedLayer | undefined> {
  const block = new Uint8Array(HEADER_SIZE);
  if (plain.size >= HEADER_SIZE) {
    await plain.read(0, block);
    if (hasLayerMagic(block)) {
      const header = parseHeader(block, { source: plain.name, offset: 0, kind: 'header' });
      const sparse = (header.flags & HeaderFlag.SPARSE) !== 0;
      report.lsmt = { kind: writableKind(header) ?? 'unknown', sparse, header: headerReport(header) };
      if (writableKind(header) === 'writable index') return undefined;
      if (writableKind(header) === 'writable data' && !(await hasTrailer(plain))) return undefined;
    }
  }
  const { layer, warp } = await openEither(plain, target);
  const { info } = layer;
  const words = await rawIndex(plain, info.indexOffset, info.indexCount);
  const lsmt: LsmtReport = {
    kind: warp ? 'warp' : (info.header.flags & HeaderFlag.SEALED) !== 0 ? 'committed' : 'sealed in place',
    sparse: (info.trailer.flags & HeaderFlag.SPARSE) !== 0,
    header: headerReport(info.header),
    trailer: headerReport(info.trailer),
    virtualSize: info.virtualSize,
    indexOffset: info.indexOffset,
    indexCount: info.indexCount,
    paddingEntries: info.paddingEntries,
    tagsOnDisk: tagsOnDisk(words),
    mapping: mappingReport(layer.index.segments()),
  };
  if (withIndex) lsmt.index = diskIndex(words);
  report.lsmt = lsmt;
  return layer;
}

function writableKind(header: LayerHeader): 'writable data' | 'writable index' | undefined {
  if ((header.flags & HeaderFlag.SEALED) !== 0) return undefined;
  return (header.flags & HeaderFlag.DATA) !== 0 ? 'writable data' : 'writable index';
}

async function hasTrailer(plain: ReadableBlob): Promise<boolean> {
  if (plain.size < 2 * HEADER_SIZE) return false;
  const magic = new Uint8Array(24);
  await plain.read(plain.size - HEADER_SIZE, magic);
  return hasLayerMagic(magic);
}

/**
 * Opens a sealed layer or a warp file. A warp file without its target cannot be told from outside, but its index makes
 * no sense as an ordinary one. The layer owns the blobs.
 * @throws FormatError
 */
export async function openEither(
  plain: ReadableBlob,
  target: ReadableBlob | undefined,
): Promise<{ layer: SealedLayer; warp: boolean }> {
  if (target !== undefined) return { layer: await openWarpLayer(plain, target), warp: true };
  try {
    return { layer: await openSealedLayer(plain), warp: false };
  } catch (error) {
    if (!(error instanceof OverlaybdError) || error.code !== 'OBD_FORMAT_BAD_INDEX') throw error;
    try {
      const layer = await openWarpLayer(plain, new MemoryBlob(new Uint8Array(0), 'target (not given)'));
      if (usesTarget(layer)) return { layer, warp: true };
    } catch {
      // Not one either: the first error is the one to show.
    }
    throw error;
  }
}

function usesTarget(layer: SealedLayer): boolean {
  const { words, count } = layer.index.segments();
  for (let i = 0; i < count; i++) if (segmentTag(words, i) === 1) return true;
  return false;
}

async function rawIndex(plain: ReadableBlob, offset: number, count: number): Promise<Uint32Array> {
  const bytes = new Uint8Array(count * 16);
  if (count > 0) await plain.read(offset, bytes);
  return wordsOf(bytes);
}

function tagsOnDisk(words: Uint32Array): number[] {
  const tags = new Set<number>();
  for (let i = 0; i < words.length / 4; i++) if (!isPadding(words, i)) tags.add(diskEntry(words, i).tag);
  return [...tags].sort((a, b) => a - b);
}

function diskIndex(words: Uint32Array): [number, number, number | 'zero', number][] {
  const rows: [number, number, number | 'zero', number][] = [];
  for (let i = 0; i < words.length / 4; i++) {
    if (isPadding(words, i)) continue;
    const { offset, length, moffset, zeroed, tag } = diskEntry(words, i);
    rows.push([offset, length, zeroed ? 'zero' : moffset, tag]);
  }
  return rows;
}

/** Sums over an index. O(n). */
export function mappingReport({ words, count }: Segments): MappingReport {
  let dataSegments = 0;
  let dataSectors = 0;
  let zeroedSectors = 0;
  for (let i = 0; i < count; i++) {
    const sectors = segmentLength(words, i);
    if (isZeroed(words, i)) zeroedSectors += sectors;
    else {
      dataSegments++;
      dataSectors += sectors;
    }
  }
  return {
    segments: count,
    dataSegments,
    dataBytes: dataSectors * 512,
    zeroedSegments: count - dataSegments,
    zeroedBytes: zeroedSectors * 512,
    ...(count > 0
      ? {
          firstSector: segmentStart(words, 0),
          endSector: segmentStart(words, count - 1) + segmentLength(words, count - 1),
        }
      : {}),
  };
}
