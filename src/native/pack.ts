import { addon } from './addon.js';
import type { Codec } from './codec.js';

/** Stored blocks, end to end, and their lengths. */
export interface PackedBlocks {
  readonly stored: Uint8Array;
  /** One little-endian uint32 per block: its stored length, crc included. */
  readonly lengths: Uint8Array;
}

/**
 * Cuts `plain` into blocks and packs each as ZFile stores it: compressed, then the crc of that. Runs on a libuv thread;
 * `plain` must not change until the promise settles. Wraps obd_pack_blocks.
 */
export function packBlocks(codec: Codec, blockSize: number, plain: Uint8Array): Promise<PackedBlocks> {
  return addon.packBlocks(codec, blockSize, plain);
}
