import { FormatError, roundUp, SliceBlob, type ReadableBlob } from '../blob/index.js';
import { parsePaxRecords, parseTarHeader, TAR_BLOCK } from './header.js';

/** Largest body of a header that is read: GNU tar and Go write far less than a page for one member. */
const MAX_HEADER_BODY = 64 * 1024;
/** Most headers before the member: PAX, global PAX, long name and long link are four. */
const MAX_HEADERS = 8;

/**
 * Looks through a tar wrapper: gives the first regular member of `blob` as a blob, or `blob` itself if it is no tar.
 * The result owns `blob` (closing it closes `blob`); on failure the caller still does. What follows the member is
 * ignored.
 * @throws FormatError OBD_FORMAT_CHECKSUM, BAD_HEADER, TRUNCATED (payload reaches beyond the blob), LIMIT.
 */
export async function tarPayload(blob: ReadableBlob): Promise<ReadableBlob> {
  const source = blob.name;
  if (blob.size < TAR_BLOCK) return blob;
  const block = new Uint8Array(TAR_BLOCK);
  let paxSize: number | undefined;
  for (let at = 0, headers = 0; headers < MAX_HEADERS; headers++) {
    if (at + TAR_BLOCK > blob.size)
      throw truncated(source, `header expected at byte ${at}, file has ${blob.size}`, at);
    await blob.read(at, block);
    const header = parseTarHeader(block, source);
    if (header === undefined) {
      if (at === 0) return blob;
      throw new FormatError(
        'OBD_FORMAT_BAD_HEADER',
        `Cannot open tar "${source}": no tar header at byte ${at}, where the wrapped file's is expected`,
        { source, offset: at, expected: 'ustar' },
      );
    }
    at += TAR_BLOCK;
    if (header.type === '0' || header.type === '7')
      return member(blob, header.name, at, paxSize === undefined || paxSize === 0 ? header.size : paxSize);
    if (!'xgLK'.includes(header.type))
      throw new FormatError(
        'OBD_FORMAT_UNSUPPORTED',
        `Cannot open tar "${source}": first member "${header.name}" has type "${header.type}", expected a regular file`,
        { source, expected: '0', actual: header.type },
      );
    if (header.size > MAX_HEADER_BODY)
      throw new FormatError(
        'OBD_FORMAT_LIMIT',
        `Cannot open tar "${source}": body of header "${header.name}" has ${header.size} bytes, at most ${MAX_HEADER_BODY} are accepted`,
        { source, expected: MAX_HEADER_BODY, actual: header.size },
      );
    const end = at + roundUp(header.size, TAR_BLOCK);
    if (end > blob.size)
      throw truncated(source, `header body ends at byte ${end}, file has ${blob.size}`, at);
    if (header.type === 'x') {
      const body = new Uint8Array(header.size);
      await blob.read(at, body);
      paxSize = parsePaxSize(parsePaxRecords(body, source).get('size'), source) ?? paxSize;
    }
    at = end;
  }
  throw new FormatError(
    'OBD_FORMAT_LIMIT',
    `Cannot open tar "${source}": more than ${MAX_HEADERS} headers before the first file`,
    { source, expected: MAX_HEADERS },
  );
}

function member(blob: ReadableBlob, name: string, offset: number, size: number): ReadableBlob {
  const source = blob.name;
  if (size === 0)
    throw new FormatError(
      'OBD_FORMAT_BAD_HEADER',
      `Cannot open tar "${source}": no payload, member "${name}" has size 0`,
      { source, offset, actual: 0 },
    );
  if (offset + size > blob.size)
    throw truncated(
      source,
      `payload "${name}" of ${size} bytes ends at byte ${offset + size}, file has ${blob.size}`,
      offset,
    );
  return new SliceBlob(blob, offset, size);
}

function parsePaxSize(value: string | undefined, source: string): number | undefined {
  if (value === undefined) return undefined;
  const size = /^[0-9]{1,16}$/.test(value) ? parseInt(value, 10) : NaN;
  if (Number.isSafeInteger(size)) return size;
  throw new FormatError(
    'OBD_FORMAT_BAD_HEADER',
    `Cannot open tar "${source}": PAX size is ${JSON.stringify(value)}, expected a decimal number`,
    { source, actual: value },
  );
}

function truncated(source: string, what: string, offset: number): FormatError {
  return new FormatError('OBD_FORMAT_TRUNCATED', `Cannot open tar "${source}": ${what}`, {
    source,
    offset,
    hint: 'The file is cut off or its size record is wrong; fetch it again',
  });
}
