/** Disk images of other programs: read as they are (raw) or through qemu-img (qcow2). */
import { open, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { abortedError, extentsOf, ioError, SECTOR, type ReadableBlob } from '../blob/index.js';
import { setSegment, SEGMENT_WORDS, type CommitSource, type Segments } from '../lsmt/index.js';
import { commitSourceToFile, type CommitFileOptions, type CommitFileResult } from './commit-file.js';
import { diskFormat, qemuImg, type DiskFormat } from './qemu-img.js';
import { RawDisk } from './raw-disk.js';

/** How a disk is opened. */
export interface OpenDiskOptions {
  /** Default: what the file's first bytes say. */
  readonly format?: DiskFormat;
  /** Where an unpacked qcow2 lies meanwhile: room for its data. */
  readonly workDir: string;
  readonly signal?: AbortSignal;
}

/** An open disk image, and how to let go of it. */
export interface OpenDisk {
  readonly disk: RawDisk;
  close(): Promise<void>;
}

/** Opens a disk image for reading. @throws IoError, FormatError, ConfigError */
export async function openDiskImage(path: string, options: OpenDiskOptions): Promise<OpenDisk> {
  const format = options.format ?? (await formatOf(path));
  if (format === 'raw') {
    const disk = await RawDisk.open(path, 'read');
    return { disk, close: () => disk.close() };
  }
  const dir = await mkdtemp(join(options.workDir, '.obd-disk-')).catch((error: unknown) => {
    throw ioError(error, `make a work directory in "${options.workDir}"`, options.workDir);
  });
  const remove = (): Promise<void> => rm(dir, { recursive: true, force: true });
  try {
    const raw = join(dir, 'raw');
    // -U: somebody may have it open, and it is only read.
    await qemuImg(['convert', '-U', '-f', format, '-O', 'raw', '-S', '4k', path, raw], options.signal);
    const disk = await RawDisk.open(raw, 'read');
    return {
      disk,
      close: async () => {
        await disk.close();
        await remove();
      },
    };
  } catch (error) {
    await remove();
    throw error;
  }
}

async function formatOf(path: string): Promise<DiskFormat> {
  try {
    const file = await open(path, 'r');
    try {
      const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 0);
      return diskFormat(buffer);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw ioError(error, `open disk "${path}"`, path);
  }
}

/** Unit in which a disk is searched for zeroes: a block of the usual file systems. */
const BLOCK = 4096;
/** Bytes searched at once. */
const STEP = 1 << 20;
/** Longest segment: whole blocks below what 14 bits hold. */
const RUN_SECTORS = 16376;

/**
 * A disk as a layer to commit: blocks of zeroes are left out, whether they are holes or not. Reads all its data, once
 * here and once when it is committed.
 */
export async function diskSource(disk: ReadableBlob, signal?: AbortSignal): Promise<CommitSource> {
  const runs = await nonZeroRuns(disk, signal);
  const virtualSize = Math.ceil(disk.size / SECTOR) * SECTOR;
  return {
    name: disk.name,
    info: { virtualSize, parentUuid: null },
    // A raw file need not end with a whole sector.
    files: [{ blob: disk, padsLastSector: true }],
    segments: () => segmentsOf(runs),
  };
}

/** Pairs of first sector and sectors. */
async function nonZeroRuns(disk: ReadableBlob, signal: AbortSignal | undefined): Promise<number[]> {
  const runs: number[] = [];
  const buffer = Buffer.alloc(STEP);
  const zeroes = Buffer.alloc(BLOCK);
  const add = (start: number, end: number): void => {
    const last = runs.length - 2;
    if (last >= 0 && (runs[last] ?? 0) + (runs[last + 1] ?? 0) === start)
      runs[last + 1] = end - (runs[last] ?? 0);
    else runs.push(start, end - start);
  };
  let done = 0;
  for (const { offset, length, data } of extentsOf(disk, 0, disk.size)) {
    if (!data) continue;
    // Whole blocks, each once, wherever extents end.
    const end = Math.min(Math.ceil((offset + length) / BLOCK) * BLOCK, disk.size);
    for (let at = Math.max(done, Math.floor(offset / BLOCK) * BLOCK); at < end; at += STEP) {
      if (signal?.aborted === true) throw abortedError('import a disk', signal);
      const bytes = buffer.subarray(0, Math.min(STEP, end - at));
      await disk.read(at, bytes);
      for (let i = 0; i < bytes.byteLength; i += BLOCK) {
        const block = bytes.subarray(i, i + BLOCK);
        if (block.equals(zeroes.subarray(0, block.byteLength))) continue;
        add((at + i) / SECTOR, Math.ceil((at + i + block.byteLength) / SECTOR));
      }
    }
    done = Math.max(done, end);
  }
  return runs;
}

function segmentsOf(runs: readonly number[]): Segments {
  let count = 0;
  for (let i = 0; i < runs.length; i += 2) count += Math.ceil((runs[i + 1] ?? 0) / RUN_SECTORS);
  const words = new Uint32Array(count * SEGMENT_WORDS);
  let n = 0;
  for (let i = 0; i < runs.length; i += 2) {
    const end = (runs[i] ?? 0) + (runs[i + 1] ?? 0);
    for (let at = runs[i] ?? 0; at < end; at += RUN_SECTORS)
      setSegment(words, n++, at, Math.min(RUN_SECTORS, end - at), at, false, 0);
  }
  return { words, count };
}

/** Writes a disk image as the layer file `path`. @throws IoError, FormatError, ConfigError */
export async function importDisk(
  image: string,
  path: string,
  options: CommitFileOptions & OpenDiskOptions,
): Promise<CommitFileResult> {
  const opened = await openDiskImage(image, options);
  try {
    return await commitSourceToFile(await diskSource(opened.disk, options.signal), path, options);
  } finally {
    await opened.close();
  }
}
