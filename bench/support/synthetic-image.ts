import { closeSync, openSync, readSync, statSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { ByteSink } from '../../src/blob/index.js';
import { commitLayer, ScratchLayer, type CommitSource } from '../../src/lsmt/index.js';
import { Codec } from '../../src/native/index.js';
import { ZFileWriter } from '../../src/zfile/index.js';

/** How layers are stored. */
export type Packing = 'raw' | 'lz4' | 'zstd';

/** Repeatable random numbers below `n`. */
export function randoms(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

/** Bytes that compress like programs do: this Node's own, at most 64 MiB, whole blocks. */
export function material(): Buffer {
  const fd = openSync(process.execPath, 'r');
  const bytes = Buffer.alloc(Math.min(statSync(process.execPath).size, 64 << 20) & ~0xfff);
  readSync(fd, bytes, 0, bytes.length, 0);
  closeSync(fd);
  return bytes;
}

async function write(source: CommitSource, path: string, packing: Packing, blockSize: number): Promise<void> {
  const handle = await open(path, 'w');
  const file: ByteSink = {
    write: async (bytes) => {
      await handle.writeFile(bytes);
    },
  };
  if (packing === 'raw') {
    await commitLayer(source, file);
  } else {
    const zfile = new ZFileWriter(file, { codec: packing === 'lz4' ? Codec.LZ4 : Codec.ZSTD, blockSize });
    await commitLayer(source, { write: (bytes) => zfile.write(bytes) });
    await zfile.finish();
  }
  await handle.close();
}

/**
 * Makes an image of two layers in `dir`: a full one of `size` bytes, and one of `extents` random pieces of 4-32 KiB on
 * top, so that the merged index has about twice as many segments. Returns its config file.
 */
export async function syntheticImage(
  dir: string,
  packing: Packing,
  options: { readonly size: number; readonly extents: number; readonly blockSize?: number },
): Promise<string> {
  const { size, extents, blockSize = 4096 } = options;
  const bytes = material();
  const random = randoms(7);
  const lowers: { file: string }[] = [];
  for (const layer of ['base', 'top'] as const) {
    const scratch = await ScratchLayer.create({ virtualSize: size, dir });
    if (layer === 'base')
      for (let at = 0; at < size; at += bytes.length)
        await scratch.store(at, bytes.subarray(0, Math.min(bytes.length, size - at)));
    else
      for (let i = 0; i < extents; i++) {
        const length = (1 + random(8)) * 4096;
        const at = random((size - length) / 4096) * 4096;
        const from = random((bytes.length - length) / 4096) * 4096;
        await scratch.store(at, bytes.subarray(from, from + length));
      }
    const file = join(dir, `${layer}-${packing}-${blockSize}`);
    await write(scratch, file, packing, blockSize);
    await scratch.close();
    lowers.push({ file });
  }
  const config = join(dir, `image-${packing}-${blockSize}.json`);
  writeFileSync(config, JSON.stringify({ lowers, resultFile: '' }));
  return config;
}
