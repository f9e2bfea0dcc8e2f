/** Headers of plain archives of files: what `oci-archive:` and `docker-archive:` targets are made of. */
import { TAR_BLOCK } from './header.js';

/** Longest name of a header block; longer ones go into a PAX record. */
const MAX_NAME = 100;
/** From here on a size does not fit into 11 octal digits. */
const MAX_OCTAL = 8 ** 11;

function block(name: string, type: string, size: number, mode: number): Buffer {
  const header = Buffer.alloc(TAR_BLOCK);
  const octal = (value: number, at: number, width: number): void => {
    header.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at, 'latin1');
  };
  header.write(name, 0, MAX_NAME, 'utf8');
  octal(mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  if (size < MAX_OCTAL) octal(size, 124, 12);
  else {
    header[124] = 0x80;
    header.writeBigUInt64BE(BigInt(size), 128);
  }
  octal(0, 136, 12);
  header.write(type, 156, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  header.fill(0x20, 148, 156);
  octal(
    header.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return header;
}

/** Zeroes between the end of a member's content and the next header. */
export function tarPadding(size: number): Uint8Array {
  return new Uint8Array((TAR_BLOCK - (size % TAR_BLOCK)) % TAR_BLOCK);
}

/** The two blocks of zeroes that end an archive. */
export function tarEnd(): Uint8Array {
  return new Uint8Array(2 * TAR_BLOCK);
}

/**
 * What stands before a member's content: owner 0:0, time 0, mode 0644 or `mode` (directories 0755), so that the same members make
 * the same archive. A name that ends in a slash is a directory's.
 */
export function tarMemberHead(name: string, size: number, mode = 0o644): Uint8Array {
  const directory = name.endsWith('/');
  const main = block(name, directory ? '5' : '0', size, directory ? 0o755 : mode);
  if (Buffer.byteLength(name) <= MAX_NAME) return main;
  const rest = ` path=${name}\n`;
  // The length counts its own digits.
  let length = Buffer.byteLength(rest) + 1;
  while (String(length).length + Buffer.byteLength(rest) !== length) length++;
  const body = Buffer.from(`${length}${rest}`);
  return Buffer.concat([block('pax', 'x', body.byteLength, 0o644), body, tarPadding(body.byteLength), main]);
}
