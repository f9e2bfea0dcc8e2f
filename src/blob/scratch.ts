/**
 * Memory for the bytes that opening a file needs for a moment: its ends, its index, its jump table. Left to the garbage
 * collector, they would pile up to dozens of megabytes before it looks, in a service that does nothing else on its main
 * thread; so they are used again. Sizes are powers of two, and what is kept is bounded.
 */

/** Smaller and larger pieces are not worth keeping. */
const LEAST = 4 << 10;
const MOST = 1 << 20;
/** Bytes kept: the ends of 32 files, which is how many are opened at once. */
const KEPT = 4 << 20;

const kept = new Map<number, Uint8Array<ArrayBuffer>[]>();
let keptBytes = 0;

/** `length` bytes at the start of a buffer of their own, holding anything. Belongs to the caller, who may drop it. */
export function takeScratch(length: number): Uint8Array<ArrayBuffer> {
  if (length > MOST) return new Uint8Array(length);
  const room = roomFor(length);
  const piece = kept.get(room)?.pop();
  if (piece === undefined) return new Uint8Array(new ArrayBuffer(room), 0, length);
  keptBytes -= room;
  return new Uint8Array(piece.buffer, 0, length);
}

/** Gives back what {@link takeScratch} gave. Nobody may use it any more. */
export function dropScratch(bytes: Uint8Array<ArrayBuffer>): void {
  const room = bytes.buffer.byteLength;
  if (room > MOST || room !== roomFor(room) || keptBytes + room > KEPT) return;
  const list = kept.get(room) ?? [];
  list.push(bytes);
  kept.set(room, list);
  keptBytes += room;
}

function roomFor(length: number): number {
  return length <= LEAST ? LEAST : 2 ** Math.ceil(Math.log2(length));
}
