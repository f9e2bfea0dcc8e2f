/**
 * The wrapper that the reference puts around a layer (docs/formats/tar.md): a PAX header with the payload's size, one
 * block for its record, the member's header with size 0, the payload, and the end of the archive. Digests depend on
 * every byte, so the reference's way to lay out numbers is kept, unusual as it is.
 */
import { roundUp } from '../blob/index.js';
import { TAR_BLOCK } from './header.js';

/** Bytes before the payload. */
export const TAR_WRAPPER_HEAD = 3 * TAR_BLOCK;

const ascii = new TextEncoder();

function put(block: Uint8Array, offset: number, text: string): void {
  block.set(ascii.encode(text), offset);
}

/** Octal in 6 columns, then a space and a NUL: mode, uid, gid and checksum fields. */
function number8(value: number): string {
  return value.toString(8).padStart(6) + ' \0';
}

/** Octal in 11 columns, then a space: size and mtime fields. */
function number12(value: number): string {
  return value.toString(8).padStart(11) + ' ';
}

function seal(block: Uint8Array): void {
  put(block, 257, 'ustar\x0000');
  block.fill(0x20, 148, 156);
  put(block, 148, number8(block.reduce((sum, byte) => sum + byte, 0)));
}

/**
 * The {@link TAR_WRAPPER_HEAD} bytes before a payload of `payloadSize` bytes.
 * @param mode the member's whole st_mode.
 */
export function tarWrapperHead(payloadSize: number, mode = 0o100644): Uint8Array {
  const head = new Uint8Array(TAR_WRAPPER_HEAD);
  const [pax, record, main] = [0, 1, 2].map((i) => head.subarray(i * TAR_BLOCK, (i + 1) * TAR_BLOCK));
  if (!pax || !record || !main) throw new TypeError('Unreachable: the head has three blocks');
  const size = ` size=${payloadSize}\n`;
  // The length counts its own digits: one more digit may be what makes it longer.
  let length = size.length + 1;
  while (String(length).length + size.length !== length) length++;
  put(record, 0, `${length}${size}`);

  put(pax, 0, 'overlaybd.pax');
  put(pax, 124, number12(length));
  put(pax, 156, 'x');
  seal(pax);

  put(main, 0, 'overlaybd.commit');
  put(main, 100, number8(mode) + number8(0) + number8(0) + number12(0) + number12(0));
  put(main, 156, '0');
  put(main, 265, 'root');
  put(main, 297, 'root');
  seal(main);
  return head;
}

/** The bytes after the payload: padding to a block, then two blocks of zeroes. */
export function tarWrapperTail(payloadSize: number): Uint8Array {
  return new Uint8Array(roundUp(payloadSize, TAR_BLOCK) - payloadSize + 2 * TAR_BLOCK);
}
