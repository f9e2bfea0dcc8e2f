/**
 * An image's disk and the ext4 on it become larger or smaller. Moving what a smaller ext4 has no room for is resize2fs's
 * affair: it works on a sparse copy of the disk, and what it changed is written to the upper afterwards.
 *
 *   grow     the disk's size first, then the file system
 *   shrink   the file system first, then the disk's size
 *
 * So whatever interrupts it, the disk is never smaller than its file system.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  abortedError,
  ConfigError,
  ConvertError,
  extentsOf,
  ioError,
  type ReadableBlob,
  type WritableBlob,
} from '../blob/index.js';
import type { ImageConfig, ImageOpener } from '../image/index.js';
import { WritableLayerStack } from '../lsmt/index.js';
import { clearRange } from './apply-layer.js';
import { OutputFile } from './output-file.js';
import { RawDisk } from './raw-disk.js';
import { runProgram } from './run-program.js';

/** How to resize. */
export interface ResizeOptions {
  /** How errors name the image. */
  readonly source: string;
  /** The disk only; what is on it is not looked at. */
  readonly deviceOnly?: boolean;
  readonly signal?: AbortSignal;
}

/** What was done. */
export interface ResizeResult {
  /** Bytes of the disk, before and after. */
  readonly from: number;
  readonly to: number;
  /** Bytes of the disk that were changed. */
  readonly changed: number;
}

const BLOCK = 4096;
const STEP = 1 << 20;

/**
 * Gives an image's disk `size` bytes.
 * @throws ConfigError without an upper; ConvertError if the file system cannot be that small or is damaged: nothing is
 * changed then
 */
export async function resizeImage(
  opener: ImageOpener,
  config: ImageConfig,
  size: number,
  options: ResizeOptions,
): Promise<ResizeResult> {
  const { hasUpper } = await import('../image/index.js');
  if (!hasUpper(config))
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot resize "${options.source}": it has no upper`, {
      source: options.source,
      hint: 'The size is the topmost layer\'s: make an upper with "obd create"',
    });
  const { signal } = options;
  const image = await opener.openConfig(config, {
    name: options.source,
    ...(signal === undefined ? {} : { signal }),
  });
  try {
    const { upper } = image;
    if (upper === undefined) throw new TypeError('Unreachable: an image with an upper has one');
    const from = image.virtualSize;
    const work = new WorkCopy(dirname(config.upper.data));
    try {
      const wanted = options.deviceOnly === true ? undefined : await work.resized(image.blob, size, signal);
      if (size > from) await upper.adoptVirtualSize(size);
      const layers = image.lowers.map(({ layer }) => layer);
      const disk = await WritableLayerStack.open(layers, upper, {
        virtualSize: Math.max(size, from),
        name: options.source,
      });
      // Not closed: its layers are the image's.
      if (size > from) await clearRange(disk, from, size - from);
      const changed = wanted === undefined ? 0 : await copyDifferences(wanted, disk, size, signal);
      await disk.flush();
      if (size < from) await upper.adoptVirtualSize(size);
      return { from, to: size, changed };
    } finally {
      await work.remove();
    }
  } finally {
    await image.close();
  }
}

/** A sparse copy of a disk in a temporary directory. */
class WorkCopy {
  readonly #parent: string;
  #dir: string | undefined;
  #disk: RawDisk | undefined;

  constructor(parent: string) {
    this.#parent = parent;
  }

  /** Copies the disk, has its file system resized, and opens the copy. */
  async resized(disk: ReadableBlob, size: number, signal: AbortSignal | undefined): Promise<RawDisk> {
    try {
      this.#dir = await mkdtemp(join(this.#parent, '.obd-resize-'));
    } catch (error) {
      throw ioError(error, `make a work directory in "${this.#parent}"`, this.#parent);
    }
    const path = join(this.#dir, 'disk');
    const copy = await OutputFile.create(path);
    try {
      await copy.truncate(Math.max(disk.size, size));
      const buffer = new Uint8Array(STEP);
      for (const { offset, length, data } of extentsOf(disk, 0, disk.size)) {
        if (!data) continue;
        for (let at = offset; at < offset + length; at += STEP) {
          if (signal?.aborted === true) throw abortedError('resize', signal);
          const bytes = buffer.subarray(0, Math.min(STEP, offset + length - at));
          await disk.read(at, bytes);
          await copy.writeAt(at, bytes);
        }
      }
      await copy.finish();
    } finally {
      await copy.discard();
    }
    // Preening stops at the known fault; nothing else is there to be answered with yes.
    if ((await checkFileSystem(path, disk.name, 'before', signal)) === 'known fault')
      await runProgram('e2fsck', ['-fy', path], { pkg: 'e2fsprogs', signal });
    const args = ['-f', path, `${Math.floor(size / 1024)}K`];
    const { status, stderr } = await runProgram('resize2fs', args, { pkg: 'e2fsprogs', signal });
    if (status !== 0)
      throw new ConvertError(
        'OBD_CONVERT_FILESYSTEM',
        `Cannot resize the file system of "${disk.name}" to ${size} bytes: ${plainWords(stderr, path)}`,
        { source: disk.name },
      );
    // resize2fs (1.47.0, with sparse_super2) miscounts a block now and then; preening puts that right.
    await runProgram('e2fsck', ['-fp', path], { pkg: 'e2fsprogs', signal });
    await checkFileSystem(path, disk.name, 'after', signal);
    this.#disk = await RawDisk.open(path, 'read');
    return this.#disk;
  }

  async remove(): Promise<void> {
    await this.#disk?.close();
    if (this.#dir !== undefined) await rm(this.#dir, { recursive: true, force: true });
  }
}

/** What mkfs of overlaybd leaves behind in /lost+found of every file system; harmless. */
const KNOWN_FAULT = /^Problem in HTREE directory inode 11: block #\d+ not referenced/;

async function checkFileSystem(
  path: string,
  name: string,
  when: string,
  signal: AbortSignal | undefined,
): Promise<'clean' | 'known fault'> {
  const { status, stdout, stderr } = await runProgram('e2fsck', ['-fn', path], { pkg: 'e2fsprogs', signal });
  if (status === 0) return 'clean';
  const faults = stdout
    .split('\n')
    .filter((line) => line !== '' && !/^(Pass |Invalid HTREE|Clear|\s*$|.*\*\*\*|.*: [0-9]+\/)/.test(line))
    .filter((line) => !KNOWN_FAULT.test(line));
  if (status === 4 && faults.length === 0) return 'known fault';
  throw new ConvertError(
    'OBD_CONVERT_FILESYSTEM',
    `Cannot resize "${name}": e2fsck finds faults in its file system ${when}: ${plainWords(faults[0] ?? stderr, path)}`,
    { source: name, hint: 'Serve it with "obd nbd" and repair it, or resize the device only' },
  );
}

/** The last line that says something, without the name of the work file. */
function plainWords(text: string, path: string): string {
  const lines = text.split('\n').filter((line) => line.trim() !== '' && !/^(e2fsck|resize2fs) \d/.test(line));
  return (lines.at(-1) ?? 'it does not say why').replaceAll(path, 'the disk').trim();
}

/** Writes to `disk` what is different in the first `size` bytes of `wanted`. Gives the bytes that were. */
async function copyDifferences(
  wanted: ReadableBlob,
  disk: WritableBlob,
  size: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  const theirs = Buffer.alloc(STEP);
  const ours = Buffer.alloc(STEP);
  const zeroes = Buffer.alloc(BLOCK);
  const steps = new Set<number>();
  for (const blob of [wanted, disk])
    for (const { offset, length, data } of extentsOf(blob, 0, size))
      for (let at = offset - (offset % STEP); data && at < offset + length; at += STEP) steps.add(at);
  let changed = 0;
  for (const at of [...steps].sort((a, b) => a - b)) {
    if (signal?.aborted === true) throw abortedError('resize', signal);
    const length = Math.min(STEP, size - at);
    await wanted.read(at, theirs.subarray(0, length));
    await disk.read(at, ours.subarray(0, length));
    for (let i = 0; i < length; i += BLOCK) {
      const block = theirs.subarray(i, Math.min(i + BLOCK, length));
      if (block.equals(ours.subarray(i, i + block.byteLength))) continue;
      if (block.equals(zeroes.subarray(0, block.byteLength))) await disk.discard(at + i, block.byteLength);
      else await disk.write(at + i, block);
      changed += block.byteLength;
    }
  }
  return changed;
}
