/** Damage to bytes, the same for the same seed: flips, lies about lengths, extremes, cuts, moved and spliced pieces. */

/** A small generator of numbers (mulberry32); input number i of a seed does not depend on those before it. */
export class Chance {
  #state: number;

  constructor(seed: number, input = 0) {
    this.#state = (Math.imul(seed, 0x9e3779b1) ^ Math.imul(input + 1, 0x85ebca6b)) >>> 0;
  }

  /** An integer from 0 to below `limit`. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return Math.floor((((z ^ (z >>> 14)) >>> 0) / 2 ** 32) * limit);
  }
}

const EXTREMES = [
  0n,
  1n,
  7n,
  0x7fn,
  0x80n,
  0xffn,
  0x1ffn,
  0x200n,
  0xffffn,
  0x10000n,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  2n ** 32n,
  2n ** 50n - 1n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 1n,
];
/** What text formats stumble over. */
const WORDS = [
  'null',
  '-1',
  '1e999',
  '9007199254740993',
  '18446744073709551616',
  '"__proto__"',
  '{}',
  '[]',
  '""',
  '../',
  '/',
  '\0',
  '.wh.',
  '.wh..wh..opq',
  '\ud800',
  '%00',
  ':',
  '@',
  ',',
  '[[[[',
  '0',
  '=',
  '\n',
].map((word) => Buffer.from(word));
const MAX_BYTES = 1 << 20;

/** One to a dozen changes to a copy of one of `seeds`. `places`: offsets worth more attention than others. */
export function mutated(seeds: readonly Buffer[], chance: Chance, places: readonly number[] = []): Buffer {
  let bytes = Buffer.from(seeds[chance.below(seeds.length)] ?? Buffer.alloc(0));
  const changes = 1 + chance.below(chance.below(4) === 0 ? 12 : 3);
  for (let i = 0; i < changes; i++) bytes = change(bytes, seeds, chance, places);
  return bytes.byteLength > MAX_BYTES ? bytes.subarray(0, MAX_BYTES) : bytes;
}

function somewhere(size: number, chance: Chance, places: readonly number[]): number {
  switch (chance.below(places.length > 0 ? 4 : 3)) {
    case 0:
      return chance.below(size);
    case 1:
      return chance.below(Math.min(size, 600));
    case 2:
      return size - 1 - chance.below(Math.min(size, 600));
    default: {
      const place = places[chance.below(places.length)] ?? 0;
      return Math.min(size - 1, Math.max(0, place < 0 ? size + place : place));
    }
  }
}

function change(
  bytes: Buffer<ArrayBuffer>,
  seeds: readonly Buffer[],
  chance: Chance,
  places: readonly number[],
): Buffer<ArrayBuffer> {
  if (bytes.byteLength === 0) return Buffer.from([chance.below(256)]);
  const at = somewhere(bytes.byteLength, chance, places);
  const width = 1 << chance.below(4);
  switch (chance.below(10)) {
    case 0:
      bytes[at] = (bytes[at] ?? 0) ^ (1 << chance.below(8));
      return bytes;
    case 1:
      bytes[at] = chance.below(256);
      return bytes;
    case 2:
    case 3: {
      const field = Buffer.alloc(8);
      const value = EXTREMES[chance.below(EXTREMES.length)] ?? 0n;
      if (chance.below(2) === 0) field.writeBigUInt64LE(value);
      else field.writeBigUInt64BE(BigInt.asUintN(8 * width, value) << BigInt(64 - 8 * width));
      field.copy(bytes, at, 0, width);
      return bytes;
    }
    case 4:
      bytes[at] = (bytes[at] ?? 0) + chance.below(9) - 4;
      return bytes;
    case 5:
      return chance.below(4) === 0 ? bytes.subarray(0, at) : bytes;
    case 6: {
      const from = chance.below(bytes.byteLength);
      bytes.copy(bytes, at, from, from + chance.below(64));
      return bytes;
    }
    case 7: {
      const other = seeds[chance.below(seeds.length)] ?? bytes;
      const from = chance.below(other.byteLength);
      other.copy(bytes, at, from, from + chance.below(512));
      return bytes;
    }
    case 8: {
      const word = WORDS[chance.below(WORDS.length)] ?? Buffer.alloc(0);
      return Buffer.concat([bytes.subarray(0, at), word, bytes.subarray(at + chance.below(8))]);
    }
    default: {
      const length = chance.below(64);
      return Buffer.concat([bytes.subarray(0, at + length), bytes.subarray(at)]);
    }
  }
}
