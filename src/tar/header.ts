/**
 * Tar header blocks, as far as a layer's wrapper needs them (docs/formats/tar.md). Number fields are the strict part:
 * a size that is read wrongly moves the window on everything behind it, so anything but an octal number between
 * padding, or base-256, is an error. (Archives of files are read by tar-reader.ts, which bears with what archivers do.)
 */
import { FormatError } from '../blob/index.js';

/** Bytes in a tar block. */
export const TAR_BLOCK = 512;

/** What a header block says. */
export interface TarHeader {
  readonly name: string;
  /** One character: `0` regular file, `x` PAX records for the next member, `g` PAX records for all, ... */
  readonly type: string;
  /** Bytes of the body that follows, without padding. */
  readonly size: number;
  readonly mode: number;
}

const text = new TextDecoder();
const CHECKSUM_FIELD = [148, 156] as const;

function field(block: Uint8Array, offset: number, length: number): string {
  const bytes = block.subarray(offset, offset + length);
  const end = bytes.indexOf(0);
  return text.decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/**
 * Reads a number field: octal digits with spaces before and spaces or NULs after, or base-256 if the first bit is
 * set. An empty field is 0.
 * @throws FormatError OBD_FORMAT_BAD_HEADER for anything else, and for negative numbers and those above 2^53.
 */
export function parseTarNumber(bytes: Uint8Array, what: string, source: string): number {
  const first = bytes[0] ?? 0;
  if ((first & 0x80) !== 0) {
    let value = (first & 0x40) !== 0 ? -1 : first & 0x3f;
    for (const byte of bytes.subarray(1)) value = value * 256 + byte;
    if (value >= 0 && Number.isSafeInteger(value)) return value;
  } else {
    const digits = /^ *([0-7]*)[ \0]*$/.exec(text.decode(bytes))?.[1];
    if (digits !== undefined) return digits === '' ? 0 : parseInt(digits, 8);
  }
  throw new FormatError(
    'OBD_FORMAT_BAD_HEADER',
    `Cannot read tar header of "${source}": ${what} is ${JSON.stringify(text.decode(bytes))}, expected an octal number`,
    { source, expected: 'octal number', actual: text.decode(bytes) },
  );
}

/**
 * Reads one header block. Undefined if it does not carry the POSIX or GNU magic, so is no tar at all.
 * @throws FormatError OBD_FORMAT_CHECKSUM if it does, but its checksum does not hold; BAD_HEADER for bad numbers.
 */
export function parseTarHeader(block: Uint8Array, source: string): TarHeader | undefined {
  const magic = text.decode(block.subarray(257, 265));
  if (magic !== 'ustar\x0000' && magic !== 'ustar  \0') return undefined;
  // Old writers summed signed chars; a reader takes either sum.
  let unsigned = 0;
  let signed = 0;
  for (let i = 0; i < TAR_BLOCK; i++) {
    const inChecksum = i >= CHECKSUM_FIELD[0] && i < CHECKSUM_FIELD[1];
    const byte = inChecksum ? 0x20 : (block[i] ?? 0);
    unsigned += byte;
    signed += byte >= 0x80 ? byte - 0x100 : byte;
  }
  const stored = parseTarNumber(block.subarray(...CHECKSUM_FIELD), 'checksum', source);
  if (stored !== unsigned && stored !== signed)
    throw new FormatError(
      'OBD_FORMAT_CHECKSUM',
      `Cannot read tar header of "${source}": checksum is ${stored}, expected ${unsigned}`,
      { source, expected: unsigned, actual: stored },
    );
  const prefix = magic.startsWith('ustar\0') ? field(block, 345, 155) : '';
  const name = field(block, 0, 100);
  const type = String.fromCharCode(block[156] ?? 0);
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    type: type === '\0' ? '0' : type,
    size: parseTarNumber(block.subarray(124, 136), 'size', source),
    mode: parseTarNumber(block.subarray(100, 108), 'mode', source),
  };
}

/**
 * Reads the records of a PAX body: `LENGTH KEY=VALUE\n`, LENGTH counting the whole record. The last of equal keys wins.
 * @throws FormatError OBD_FORMAT_BAD_HEADER if a record's length does not fit.
 */
export function parsePaxRecords(body: Uint8Array, source: string): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < body.byteLength;) {
    const digits = /^[0-9]{1,8}(?= )/.exec(text.decode(body.subarray(at, at + 9)))?.[0] ?? '';
    const length = digits === '' ? 0 : parseInt(digits, 10);
    const space = at + digits.length;
    const record = body.subarray(space + 1, at + length);
    const equals = record.indexOf(0x3d);
    if (length === 0 || at + length > body.byteLength || equals < 1 || record.at(-1) !== 0x0a)
      throw new FormatError(
        'OBD_FORMAT_BAD_HEADER',
        `Cannot read PAX records of "${source}": record at byte ${at} of ${body.byteLength} is malformed`,
        { source, offset: at },
      );
    records.set(text.decode(record.subarray(0, equals)), text.decode(record.subarray(equals + 1, -1)));
    at += length;
  }
  return records;
}
