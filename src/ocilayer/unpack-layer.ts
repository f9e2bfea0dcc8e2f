/**
 * Layer blobs as plain tars. What a blob is, is told by its first bytes: media types of real images are not always
 * true. Damage is an error that says whether the stream ended early or does not hold together.
 */
import { ChunkRing, ConvertError } from '../blob/index.js';
import { MOST_WAITING, Unzstd } from '../native/index.js';
import { gunzip } from './gunzip.js';

/** How a layer blob is packed. */
export type LayerPacking = 'gzip' | 'zstd' | 'plain';

/** Tells the packing from the first 4 bytes. */
export function layerPacking(head: Uint8Array): LayerPacking {
  const [a, b, c, d] = head;
  if (a === 0x1f && b === 0x8b) return 'gzip';
  // A zstd frame, or a skippable one in front of it.
  if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) return 'zstd';
  if (a !== undefined && a >> 4 === 5 && b === 0x2a && c === 0x4d && d === 0x18) return 'zstd';
  return 'plain';
}

/** No media type of an image is xz, but some tools pack layers so; as a tar it would be called damaged. */
function isXz([a, b, c, d]: Uint8Array): boolean {
  return a === 0xfd && b === 0x37 && c === 0x7a && d === 0x58;
}

/** Packed bytes given to a decoder at once, and plain ones taken from it: each time a thread is woken. */
const INPUT = 512 * 1024;
const OUTPUT = 1024 * 1024;
/** Unpacked chunks made ahead of the one in use. */
const AHEAD = 2;

/**
 * How many more bytes of a layer may be asked for before those of a chunk are used again: for what a digest has waiting, and
 * for the chunk whose content is still being written.
 */
export const PLAIN_KEPT = MOST_WAITING + 4 * OUTPUT;

function damaged(source: string, packing: LayerPacking, cause: unknown): ConvertError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new ConvertError(
    'OBD_CONVERT_BAD_TAR',
    `Cannot unpack layer "${source}": ${packing} stream: ${reason}`,
    {
      source,
      cause,
    },
  );
}

/**
 * The plain bytes of a layer blob. Memory: a few buffers, whatever the ratio. The blob is read to its end, so that a
 * check that it does there is done. Breaking off ends the blob's iteration.
 * @param source how errors name the blob.
 * @param onPacking told before the first bytes.
 * @returns chunks that stay as they are until {@link PLAIN_KEPT} more bytes have been asked for; those of a plain blob are
 * the blob's own.
 */
export async function* unpackLayer(
  blob: AsyncIterable<Uint8Array>,
  source: string,
  onPacking?: (packing: LayerPacking) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  const chunks = blob[Symbol.asyncIterator]();
  const first: Uint8Array[] = [];
  try {
    let length = 0;
    while (length < 4) {
      const next = await chunks.next();
      if (next.done === true) break;
      first.push(next.value);
      length += next.value.byteLength;
    }
    const head = Buffer.concat(first);
    if (isXz(head))
      throw new ConvertError('OBD_CONVERT_BAD_TAR', `Cannot unpack layer "${source}": it is packed with xz`, {
        source,
        expected: 'a tar, plain or packed with gzip or zstd',
        actual: 'xz',
        hint: 'Push the image again with layers that are packed with gzip or zstd',
      });
    const packing = layerPacking(head);
    onPacking?.(packing);
    const blobChunks = rest(first, chunks);
    const packed = packing === 'plain' ? blobChunks : gathered(blobChunks);
    const damage = (problem: unknown): ConvertError => damaged(source, packing, problem);
    // Beside what is kept: the chunk in use, and those in the making.
    const ring = new ChunkRing(OUTPUT, PLAIN_KEPT + (AHEAD + 2) * OUTPUT);
    if (packing === 'gzip') yield* readAhead(gunzip(packed, damage, ring), AHEAD);
    else if (packing === 'zstd') yield* readAhead(unzstd(packed, damage, ring), AHEAD);
    else yield* packed;
    // Whatever follows the last member is part of the blob's digest, which its stream checks at the end.
    while ((await chunks.next()).done !== true);
  } finally {
    // Not waited for: a read may be under way that its owner is about to end.
    chunks.return?.().catch(() => undefined);
  }
}

async function* rest(
  first: readonly Uint8Array[],
  chunks: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  yield* first;
  for (;;) {
    const next = await chunks.next();
    if (next.done === true) return;
    yield next.value;
  }
}

/** Small chunks, as they come from a network, put together. A chunk stays as it is until the next is asked for. */
async function* gathered(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const ring = new ChunkRing(INPUT, 0);
  let used = 0;
  for await (const chunk of chunks) {
    if (used === 0 && chunk.byteLength >= INPUT / 2) {
      yield chunk;
      continue;
    }
    for (let at = 0; at < chunk.byteLength;) {
      const piece = chunk.subarray(at, at + INPUT - used);
      ring.room().set(piece, used);
      at += piece.byteLength;
      used += piece.byteLength;
      if (used < INPUT) continue;
      yield ring.take(used);
      used = 0;
    }
  }
  if (used > 0) yield ring.take(used);
}

/** Keeps `depth` items in the making while the taker works: what is made by other threads then runs beside it. */
async function* readAhead<T>(source: AsyncIterable<T>, depth: number): AsyncGenerator<T, void, undefined> {
  const items = source[Symbol.asyncIterator]();
  const queue: Promise<IteratorResult<T>>[] = [];
  try {
    for (;;) {
      while (queue.length <= depth) {
        const next = items.next();
        next.catch(() => undefined); // Reported where it is awaited, if it is.
        queue.push(next);
      }
      const item = await queue.shift();
      if (item === undefined || item.done === true) return;
      yield item.value;
    }
  } finally {
    items.return?.().catch(() => undefined);
  }
}

async function* unzstd(
  packed: AsyncIterable<Uint8Array>,
  damage: (problem: unknown) => ConvertError,
  ring: ChunkRing,
): AsyncGenerator<Uint8Array, void, undefined> {
  const decoder = new Unzstd();
  let inFrame = false;
  for await (const chunk of packed) {
    for (let at = 0; at < chunk.byteLength; at += INPUT) {
      let input = chunk.subarray(at, at + INPUT);
      for (;;) {
        const output = ring.room();
        const { consumed, produced, ended } = await decoder.run(input, output).catch((error: unknown) => {
          throw damage(error);
        });
        input = input.subarray(consumed);
        inFrame = !ended;
        if (produced > 0) yield ring.take(produced);
        // A full buffer may hide more that needs no further input.
        if (input.byteLength === 0 && (produced < output.byteLength || !inFrame)) break;
        if (consumed === 0 && produced === 0) throw damage('no progress');
      }
    }
  }
  if (inFrame) throw damage('unexpected end of file');
}
