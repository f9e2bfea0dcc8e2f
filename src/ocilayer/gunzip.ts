/**
 * A gzip stream of any number of members (RFC 1952), strictly: reserved bits, checksum and length of each member are
 * checked. What follows the last member and is no member is ignored, as gzip(1) does. Node's own stream does not say
 * when it meets that, and may then never end.
 */
import { crc32 } from 'node:zlib';
import type { ChunkRing } from '../blob/index.js';
import { Inflater } from '../native/index.js';

/** Packed bytes given to the decoder at once. */
const INPUT = 512 * 1024;

const HAS_CRC = 2;
const HAS_EXTRA = 4;
const HAS_NAME = 8;
const HAS_COMMENT = 16;
const RESERVED = 0xe0;

/** The packed stream, byte by byte or chunk by chunk. */
class Input {
  chunk: Uint8Array = new Uint8Array();
  readonly #chunks: AsyncIterator<Uint8Array>;

  constructor(packed: AsyncIterable<Uint8Array>) {
    this.#chunks = packed[Symbol.asyncIterator]();
  }

  /** Makes the chunk non-empty; false at the end. */
  async fill(): Promise<boolean> {
    while (this.chunk.byteLength === 0) {
      const next = await this.#chunks.next();
      if (next.done === true) return false;
      this.chunk = next.value;
    }
    return true;
  }

  async byte(): Promise<number | undefined> {
    if (this.chunk.byteLength === 0 && !(await this.fill())) return undefined;
    const [value] = this.chunk;
    this.chunk = this.chunk.subarray(1);
    return value;
  }
}

/** Unpacks into `ring`; `damage` makes the error from what is wrong. */
export async function* gunzip(
  packed: AsyncIterable<Uint8Array>,
  damage: (problem: unknown) => Error,
  ring: ChunkRing,
): AsyncGenerator<Uint8Array, void, undefined> {
  const input = new Input(packed);
  const inflater = new Inflater(true);
  const byte = async (): Promise<number> => {
    const value = await input.byte();
    if (value === undefined) throw damage('unexpected end of file');
    return value;
  };
  const number = async (bytes: number): Promise<number> => {
    let value = 0;
    for (let i = 0; i < bytes; i++) value += (await byte()) * 256 ** i;
    return value;
  };
  for (let member = 0; ; member++) {
    const [first, second] = [await input.byte(), await input.byte()];
    if (first !== 0x1f || second !== 0x8b) {
      if (member === 0) throw damage('not a gzip stream');
      while (await input.fill()) input.chunk = new Uint8Array();
      return;
    }
    if ((await byte()) !== 8) throw damage('unknown compression method');
    const flags = await byte();
    if ((flags & RESERVED) !== 0) throw damage('unknown flags');
    await number(6); // time, hints, system
    if ((flags & HAS_EXTRA) !== 0) for (let left = await number(2); left > 0; left--) await byte();
    if ((flags & HAS_NAME) !== 0) while ((await byte()) !== 0);
    if ((flags & HAS_COMMENT) !== 0) while ((await byte()) !== 0);
    if ((flags & HAS_CRC) !== 0) await number(2);

    let crc = 0;
    let size = 0;
    inflater.start(0, 0, new Uint8Array());
    for (let ended = false, full = false; !ended;) {
      // A full buffer may hide more that needs no further input.
      if (!full && !(await input.fill())) throw damage('unexpected end of file');
      const output = ring.room();
      const from = input.chunk.subarray(0, INPUT);
      const step = await inflater.run(from, output).catch((error: unknown) => {
        throw damage(error);
      });
      input.chunk = input.chunk.subarray(step.consumed);
      ({ ended } = step);
      full = step.produced === output.byteLength;
      if (step.produced === 0) {
        if (step.consumed === 0 && !ended && from.byteLength > 0) throw damage('no progress');
        continue;
      }
      const plain = ring.take(step.produced);
      crc = crc32(plain, crc);
      size = (size + step.produced) % 2 ** 32;
      yield plain;
    }
    if ((await number(4)) !== crc) throw damage('incorrect data check');
    if ((await number(4)) !== size) throw damage('incorrect length check');
  }
}
