/** New, empty writable layers, and empty file systems in them. */
import { unlink, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { ConfigError, ioError, type WritableBlob } from '../blob/index.js';
import {
  AppendLayer,
  SparseLayer,
  WritableLayerStack,
  type NewLayerOptions,
  type WritableLayer,
} from '../lsmt/index.js';
import { Ext4Image } from '../native/index.js';
import { writeOutput } from './output-file.js';
import { readWorkFile } from './work-file.js';

/** What to make. */
export interface CreateLayerOptions {
  readonly data: string;
  /** Of a sparse layer: an empty file that marks the pair as complete for programs that look for one. */
  readonly index: string;
  /** Bytes; 0 takes the size of the layers below when it is first used over some. */
  readonly virtualSize: number;
  readonly sparse?: boolean;
  readonly parentUuid?: string | null;
  /** Put an empty ext4 file system into it. */
  readonly mkfs?: boolean;
  /** Without the directory lost+found: for the root of a container. */
  readonly bare?: boolean;
}

/** Bytes copied at once. */
const STEP = 1 << 20;

/**
 * Makes a writable layer. Neither file may exist; after a failure neither does.
 * @throws IoError, ConfigError, ConvertError
 */
export async function createLayer(options: CreateLayerOptions): Promise<void> {
  const { data, index } = options;
  if (options.mkfs === true) checkFileSystemSize(options.virtualSize);
  const layer = await makeLayer(options);
  let disk: WritableBlob | undefined;
  try {
    if (options.mkfs === true) {
      disk = await WritableLayerStack.open([], layer);
      await makeFileSystem(disk, dirname(data), options.bare);
      await disk.flush();
    }
    await (disk ?? layer).close();
  } catch (error) {
    await (disk ?? layer).close();
    await Promise.allSettled([unlink(data), unlink(index)]);
    throw error;
  }
}

async function makeLayer(options: CreateLayerOptions): Promise<WritableLayer> {
  const { data, index } = options;
  const fields: NewLayerOptions = {
    virtualSize: options.virtualSize,
    ...(options.parentUuid === undefined ? {} : { parentUuid: options.parentUuid }),
  };
  if (options.sparse !== true) return AppendLayer.create({ data, index }, fields);
  try {
    await writeFile(index, '', { flag: 'wx', mode: 0o644 });
  } catch (error) {
    throw ioError(error, `create "${index}"`, index);
  }
  try {
    return await SparseLayer.create(data, fields);
  } catch (error) {
    await unlink(index);
    throw error;
  }
}

/**
 * Makes a plain file that is a disk, with or without a file system. It must not exist.
 * @throws IoError, ConfigError, ConvertError
 */
export async function createRawDisk(
  path: string,
  options: Pick<CreateLayerOptions, 'virtualSize' | 'mkfs'>,
): Promise<void> {
  if (options.mkfs === true) checkFileSystemSize(options.virtualSize);
  await writeOutput(path, {}, async (output) => {
    await output.truncate(options.virtualSize);
    if (options.mkfs !== true) return;
    await copyFileSystem(options.virtualSize, dirname(path), (offset, bytes) =>
      output.writeAt(offset, bytes),
    );
  });
}

function checkFileSystemSize(size: number): void {
  if (size >= 1 << 20) return;
  throw new ConfigError(
    'OBD_CONFIG_VALUE',
    `Cannot make a file system on a disk of ${size} bytes: expected 1 MiB at least`,
    { hint: 'Give the layer a virtual size' },
  );
}

/** Writes an empty ext4 file system over all of `disk`, which reads as zeroes so far. */
export async function makeFileSystem(disk: WritableBlob, workDir: string, bare = false): Promise<void> {
  await copyFileSystem(disk.size, workDir, (offset, bytes) => disk.write(offset, bytes), bare);
}

async function copyFileSystem(
  size: number,
  workDir: string,
  write: (offset: number, bytes: Uint8Array) => Promise<void>,
  bare = false,
): Promise<void> {
  const image = await Ext4Image.format(workDir, size - (size % 4096));
  try {
    if (bare) await image.removeTree(Ext4Image.ROOT, 'lost+found');
    await image.flush();
    const runs = await image.changes();
    const buffer = new Uint8Array(STEP);
    for (const { offset, length, zero } of runs) {
      if (zero) continue;
      for (let done = 0; done < length; done += STEP) {
        const bytes = buffer.subarray(0, Math.min(STEP, length - done));
        await readWorkFile(image.fd, offset + done, bytes);
        await write(offset + done, bytes);
      }
    }
  } finally {
    image.close();
  }
}
