/** Headers of the files of a writable layer: reading, checking, rewriting the virtual size. */

import { randomUUID } from 'node:crypto';
import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { FormatError, ioError } from '../blob/index.js';
import {
  blockError,
  encodeHeader,
  hasLayerMagic,
  HEADER_SIZE,
  HeaderFlag,
  normalUuid,
  parseHeader,
  VIRTUAL_SIZE_OFFSET,
  type BlockPlace,
  type LayerHeader,
} from './format.js';
import type { LayerInfo } from './layer.js';
import type { RwFile } from './rw-file.js';

/** What a new writable layer says about itself. */
export interface NewLayerOptions {
  /** Bytes; 0 = take that of the layers below when stacked. */
  readonly virtualSize: number;
  /** Default: a random one. */
  readonly uuid?: string;
  readonly parentUuid?: string | null;
  /** At most 256 bytes. */
  readonly userTag?: Uint8Array;
}

/** The {@link LayerInfo} that options ask for. */
export function newLayerInfo(options: NewLayerOptions): LayerInfo {
  if (!Number.isSafeInteger(options.virtualSize) || options.virtualSize < 0)
    throw new RangeError(`Virtual size ${options.virtualSize} is not a number of bytes`);
  const { parentUuid } = options;
  return {
    virtualSize: options.virtualSize,
    uuid: normalUuid(options.uuid ?? randomUUID()),
    parentUuid: parentUuid === undefined || parentUuid === null ? null : normalUuid(parentUuid),
    userTag: options.userTag ?? new Uint8Array(0),
  };
}

/** Writes the first block of a new file. */
export async function writeRwHeader(
  file: RwFile,
  flags: number,
  info: LayerInfo,
  indexOffset = 0,
): Promise<void> {
  await file.write(0, encodeHeader({ ...info, flags, indexOffset }));
}

/**
 * Reads and checks the first block.
 * @throws FormatError
 */
export async function readRwHeader(file: RwFile, kind: 'data' | 'index'): Promise<LayerHeader> {
  const place: BlockPlace = {
    source: file.name,
    offset: 0,
    kind: kind === 'data' ? 'header' : 'index header',
  };
  if (file.size < HEADER_SIZE)
    throw new FormatError(
      'OBD_FORMAT_TRUNCATED',
      `Cannot open layer "${file.name}": file is ${file.size} bytes, too short for a header of ${HEADER_SIZE}`,
      { source: file.name, offset: file.size, expected: HEADER_SIZE, actual: file.size },
    );
  const block = new Uint8Array(HEADER_SIZE);
  await file.read(0, block);
  const header = parseHeader(block, place);
  const flags = `flags 0x${header.flags.toString(16)}`;
  if ((header.flags & HeaderFlag.HEADER) === 0) throw blockError(place, `${flags}: header bit`, 1, 0);
  const isData = (header.flags & HeaderFlag.DATA) !== 0;
  if (isData !== (kind === 'data'))
    throw blockError(place, `${flags}: data file bit`, kind === 'data' ? 1 : 0, isData ? 1 : 0);
  if ((header.flags & HeaderFlag.SEALED) !== 0)
    throw blockError(place, `${flags}: sealed bit`, 0, 1, 'The layer is sealed: use it as a lower layer');
  if (header.virtualSize > BigInt(Number.MAX_SAFE_INTEGER))
    throw blockError(
      place,
      'virtual size',
      `at most ${Number.MAX_SAFE_INTEGER}`,
      header.virtualSize.toString(),
    );
  return header;
}

/**
 * Refuses a data file that was sealed in place: its header still says otherwise, but it ends in a trailer with the
 * same uuid (so that data which happens to be somebody else's layer is not mistaken for one).
 * @throws FormatError
 */
export async function refuseSealed(file: RwFile, header: LayerHeader): Promise<void> {
  if ((await sealOf(file, header)) === undefined) return;
  const place: BlockPlace = { source: file.name, offset: file.size - HEADER_SIZE, kind: 'trailer' };
  throw blockError(place, 'sealed bit', 0, 1, 'The layer was sealed in place: use it as a lower layer');
}

/** The trailer of a data file that was sealed in place; undefined while it is writable. @throws FormatError, IoError */
export async function sealOf(file: RwFile, header: LayerHeader): Promise<LayerHeader | undefined> {
  if (header.uuid === null || file.size < 2 * HEADER_SIZE) return undefined;
  const offset = file.size - HEADER_SIZE;
  const block = new Uint8Array(HEADER_SIZE);
  await file.read(offset, block);
  if (!hasLayerMagic(block)) return undefined;
  const trailer = parseHeader(block, { source: file.name, offset, kind: 'trailer' });
  const mask = HeaderFlag.HEADER | HeaderFlag.DATA | HeaderFlag.SEALED;
  const sealed = (trailer.flags & mask) === (HeaderFlag.DATA | HeaderFlag.SEALED);
  return sealed && trailer.uuid === header.uuid ? trailer : undefined;
}

/** What a header says about the layer. */
export function infoOf(header: LayerHeader): LayerInfo {
  return {
    virtualSize: Number(header.virtualSize),
    uuid: header.uuid,
    parentUuid: header.parentUuid,
    userTag: header.userTag,
  };
}

/** Rewrites the virtual size in a header, durably. */
export async function writeVirtualSize(file: RwFile, size: number): Promise<void> {
  const field = new Uint8Array(8);
  new DataView(field.buffer).setBigUint64(0, BigInt(size), true);
  await file.write(VIRTUAL_SIZE_OFFSET, field);
  await file.sync();
}

/** Makes names in the directory of `path` durable. */
export async function syncDirectoryOf(path: string): Promise<void> {
  const dir = dirname(path);
  try {
    const handle = await open(dir, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw ioError(error, `flush directory "${dir}"`, dir);
  }
}
