import { readSync } from 'node:fs';
import { CRC_CHECKED, PLAN_STRIDE, ReadCodec, type ReadPlan } from '../../src/blob/index.js';
import { crc32c, decompress, type Codec } from '../../src/native/index.js';

/** Carries out a plan of one command as the native executor does, in plain TypeScript. */
export function runPlan(plan: ReadPlan, into: Uint8Array): void {
  for (let i = 0; i < plan.length; i++) {
    const [fd = -1, offset = 0, stored = 0, codec = 0, plain = 0, skip = 0, length = 0, destination = 0] =
      plan.words.subarray(i * PLAN_STRIDE, (i + 1) * PLAN_STRIDE);
    if (codec === ReadCodec.ZERO) {
      into.fill(0, destination, destination + length);
      continue;
    }
    const bytes = Buffer.alloc(stored);
    if (readSync(fd, bytes, 0, stored, offset) !== stored) throw new Error('short read');
    let body = bytes;
    if (codec >= CRC_CHECKED) {
      body = bytes.subarray(0, -4);
      if (crc32c(body, 100007) !== bytes.readUInt32LE(stored - 4)) throw new Error('crc');
    }
    let block: Uint8Array = body;
    if (codec % CRC_CHECKED !== ReadCodec.RAW) {
      block = new Uint8Array(plain);
      if (decompress((codec % CRC_CHECKED) as Codec, body, block) !== plain) throw new Error('length');
    }
    into.set(block.subarray(skip, skip + length), destination);
  }
}
