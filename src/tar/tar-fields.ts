/**
 * The fields of layer tars: numbers in octal and base-256, PAX records, times, sparse maps. Strict: a number that is
 * not one is an error, never 0. Text is kept as a *byte string*: one character (0 to 255) per byte.
 */
import { ConvertError } from '../blob/index.js';

/** Whole seconds since 1970, rounded down, and nanoseconds from there. */
export interface TarTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** Bytes as a byte string. */
export function byteString(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/** A field up to its first NUL. */
export function textField(block: Uint8Array, offset: number, length: number): string {
  const text = byteString(block.subarray(offset, offset + length));
  const end = text.indexOf('\0');
  return end < 0 ? text : text.slice(0, end);
}

/** How errors name a place in an archive. */
export interface TarPlace {
  readonly archive: string;
  /** Byte offset of the member's header. */
  readonly offset: number;
}

/** An archive that is not what it should be. */
export function badTar(place: TarPlace, problem: string, cause?: unknown): ConvertError {
  return new ConvertError(
    'OBD_CONVERT_BAD_TAR',
    `Cannot read layer tar "${place.archive}": ${problem}, member at byte ${place.offset}`,
    { source: place.archive, offset: place.offset, ...(cause !== undefined && { cause }) },
  );
}

function safe(value: bigint, what: string, place: TarPlace): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw badTar(place, `${what} ${value} is beyond 2^53`);
  return number;
}

/** What nearly every field is: only digits up to a NUL or space in the last place. -1 for all else. */
function plainOctal(block: Uint8Array, offset: number, length: number): number {
  let value = 0;
  for (let i = offset; i < offset + length - 1; i++) {
    const digit = (block[i] ?? 0) - 0x30;
    if (digit < 0 || digit > 7) return -1;
    value = value * 8 + digit;
  }
  const last = block[offset + length - 1];
  return last === 0 || last === 0x20 ? value : -1;
}

/**
 * A number field: octal digits between spaces and NULs, or base-256 (two's complement) when the first bit is set. An
 * empty field is 0.
 */
export function numberField(
  block: Uint8Array,
  offset: number,
  length: number,
  what: string,
  place: TarPlace,
): number {
  const first = block[offset] ?? 0;
  if ((first & 0x80) !== 0) {
    let value = BigInt(first & 0x7f);
    if ((first & 0x40) !== 0) value -= 0x80n;
    for (let i = 1; i < length; i++) value = (value << 8n) | BigInt(block[offset + i] ?? 0);
    return safe(value, what, place);
  }
  const plain = plainOctal(block, offset, length);
  if (plain >= 0) return plain;
  const text = byteString(block.subarray(offset, offset + length));
  const digits = /^[ \0]*([0-7]*)[ \0]*$/.exec(text)?.[1];
  // Some writers leave garbage behind the terminating NUL, as C strings allow.
  const lenient = digits ?? /^ *([0-7]+)[ \0]/.exec(text)?.[1];
  if (lenient === undefined)
    throw badTar(place, `${what} is ${JSON.stringify(text)}, expected an octal number`);
  return lenient === '' ? 0 : safe(BigInt(`0o${lenient}`), what, place);
}

/** A decimal PAX number. */
export function decimal(text: string, what: string, place: TarPlace): number {
  if (!/^[0-9]{1,20}$/.test(text))
    throw badTar(place, `${what} is ${JSON.stringify(text.slice(0, 40))}, expected a decimal number`);
  return safe(BigInt(text), what, place);
}

/** A PAX time: seconds with an optional sign and fraction; digits beyond nanoseconds are dropped. */
export function paxTime(text: string, what: string, place: TarPlace): TarTime {
  const match = /^(-?)([0-9]{1,17})(?:\.([0-9]*))?$/.exec(text);
  if (match === null)
    throw badTar(place, `${what} is ${JSON.stringify(text.slice(0, 40))}, expected seconds`);
  const whole = safe(BigInt(match[2] ?? '0'), what, place);
  const fraction = Number((match[3] ?? '').slice(0, 9).padEnd(9, '0'));
  if (match[1] !== '-') return { seconds: whole, nanoseconds: fraction };
  return fraction === 0
    ? { seconds: 0 - whole, nanoseconds: 0 }
    : { seconds: -whole - 1, nanoseconds: 1_000_000_000 - fraction };
}

/** One record of a PAX body. The value is bytes: attributes are binary. */
export interface PaxRecord {
  readonly key: string;
  readonly value: Uint8Array;
}

/** The records of a PAX body, in order: `LENGTH KEY=VALUE\n`, LENGTH counting the whole record. */
export function paxRecords(body: Uint8Array, place: TarPlace): PaxRecord[] {
  const records: PaxRecord[] = [];
  for (let at = 0; at < body.byteLength;) {
    // Padding inside the stated size, as some writers leave it.
    if (body[at] === 0 && body.subarray(at).every((byte) => byte === 0)) break;
    const space = body.indexOf(0x20, at);
    const digits = space < 0 || space - at > 8 ? '' : byteString(body.subarray(at, space));
    const end = at + (/^[0-9]+$/.test(digits) ? Number(digits) : 0);
    const equals = body.indexOf(0x3d, space + 1);
    if (
      space < 0 ||
      end <= space ||
      end > body.byteLength ||
      equals < 0 ||
      equals >= end ||
      body[end - 1] !== 0x0a ||
      equals === space + 1
    )
      throw badTar(place, `malformed PAX record at byte ${at} of its ${body.byteLength}`);
    records.push({
      key: byteString(body.subarray(space + 1, equals)),
      value: body.slice(equals + 1, end - 1),
    });
    at = end;
  }
  return records;
}

/** Stored pieces of a sparse file, flat: offset, length, offset, length... */
export type SparseMap = readonly number[];

/** Most pieces of a sparse file: bounds memory at 16 MB. */
export const MAX_SPARSE_PIECES = 1_000_000;

/** Fails unless the pieces ascend, stay apart, lie within `size` and add up to `stored` bytes. */
export function checkSparseMap(map: SparseMap, size: number, stored: number, place: TarPlace): void {
  let end = 0;
  let sum = 0;
  if (map.length % 2 !== 0) throw badTar(place, 'sparse map has an offset without a length');
  if (map.length / 2 > MAX_SPARSE_PIECES)
    throw badTar(place, `sparse map has more than ${MAX_SPARSE_PIECES} pieces`);
  for (let i = 0; i < map.length; i += 2) {
    const offset = map[i] ?? 0;
    const length = map[i + 1] ?? 0;
    if (offset < end || length < 0 || offset + length > size)
      throw badTar(
        place,
        `sparse piece [${offset}, ${offset + length}) does not fit a file of ${size} bytes`,
      );
    end = offset + length;
    sum += length;
  }
  if (sum !== stored) throw badTar(place, `sparse pieces add up to ${sum} bytes, ${stored} are stored`);
}

/** True if the checksum holds, as a sum of unsigned or (old writers) signed characters. */
export function checksumHolds(block: Uint8Array, place: TarPlace): boolean {
  let unsigned = 0;
  let signed = 0;
  for (let i = 0; i < 512; i++) {
    const byte = i >= 148 && i < 156 ? 0x20 : (block[i] ?? 0);
    unsigned += byte;
    signed += byte >= 0x80 ? byte - 0x100 : byte;
  }
  let stored: number;
  try {
    stored = numberField(block, 148, 8, 'checksum', place);
  } catch {
    return false;
  }
  return stored === unsigned || stored === signed;
}
