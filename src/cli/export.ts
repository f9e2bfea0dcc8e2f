/**
 * `obd export`: the whole device of an image into one raw file. What no layer has stays a hole, found by asking the
 * index, not by reading; so the time depends on the data, not on the size of the disk.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { open, rename, unlink, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Writable } from 'node:stream';
import { Option, type Command } from 'commander';
import {
  abortedError,
  ConfigError,
  extentsOf,
  IoError,
  ioError,
  type Extent,
  type ReadableBlob,
} from '../blob/index.js';
import { ImageOpener, loadServiceConfig } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { exportToQcow2 } from './export-qcow2.js';
import { interruptible } from './stop-signal.js';
import { byteProgress } from './progress.js';
import { serviceConfigPath } from './service-config-path.js';
import { formatDuration, formatSize } from './units.js';

/** Bytes of one read: several units of the cache, so that a remote image is fetched in long requests. */
const STEP = 1024 * 1024;
/** Reads in flight; with the step above, 16 MiB of memory. */
const IN_FLIGHT = 16;

interface ExportFlags {
  readonly config: string;
  readonly serviceConfig?: string;
  readonly format: 'raw' | 'qcow2';
  readonly force?: boolean;
  readonly quiet?: boolean;
}

/** What was written. */
export interface ExportResult {
  /** Bytes of the disk. */
  readonly size: number;
  /** Bytes that some layer has. */
  readonly dataSize: number;
}

/** Adds `export` to the program. */
export function addExportCommand(program: Command): void {
  program
    .command('export')
    .description("Write an image's whole device to a sparse raw file, or to a qcow2.")
    .argument('<out>', 'the file, or - for standard output (then holes are written as zeroes)')
    .requiredOption('--config <file>', 'the image configuration (config.v1.json)')
    .option('--service-config <file>', 'overlaybd.json, for remote layers')
    .addOption(
      new Option('--format <name>', 'what to write (qcow2 needs qemu-img)')
        .choices(['raw', 'qcow2'])
        .default('raw'),
    )
    .option('--force', 'replace the file if it exists')
    .option('--quiet', 'no progress')
    .action(exportCommand);
}

async function exportCommand(out: string, flags: ExportFlags): Promise<void> {
  if (out === '-' && flags.format !== 'raw')
    throw new ConfigError('OBD_CONFIG_VALUE', `A ${flags.format} cannot go to standard output: name a file`);
  const log = makeLogger('warn');
  const opener = new ImageOpener(
    await loadServiceConfig(await serviceConfigPath(flags.serviceConfig), log),
    log,
  );
  const progress = byteProgress('export', flags.quiet);
  const started = Date.now();
  try {
    const result = await interruptible(async (signal) => {
      const image = await opener.open(flags.config, { mode: 'read', signal });
      const options = { signal, onProgress: progress.update.bind(progress) };
      const replace = flags.force === true;
      try {
        if (flags.format === 'qcow2') return await exportToQcow2(image.blob, out, { signal, replace });
        if (out === '-') return await exportToStream(image.blob, process.stdout, options);
        return await exportToFile(image.blob, out, { ...options, replace });
      } finally {
        await image.close();
      }
    });
    progress.stop();
    if (flags.quiet !== true)
      process.stderr.write(
        `${flags.config}: ${formatSize(result.size)}, ${formatSize(result.dataSize)} of it data, in ${formatDuration(Date.now() - started)}\n`,
      );
  } finally {
    progress.stop();
    await opener.close();
  }
}

/** How an export is watched and stopped. */
export interface ExportOptions {
  readonly signal?: AbortSignal;
  /** Bytes of data. */
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Writes `disk` to a sparse file. The name appears when everything is there and synced; until then, and after a
 * failure, there is at most a temporary file beside it, which is removed.
 * @throws IoError OBD_IO_EXISTS if the file exists and is not to be replaced.
 */
export async function exportToFile(
  disk: ReadableBlob,
  path: string,
  options: ExportOptions & { readonly replace?: boolean } = {},
): Promise<ExportResult> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}`);
  let file: FileHandle | undefined;
  try {
    if (options.replace !== true) await refuseExisting(path);
    file = await open(temporary, 'wx', 0o644);
    await file.truncate(disk.size);
    const target = file;
    const dataSize = await copyData(disk, options, async (offset, bytes) => {
      for (let done = 0; done < bytes.byteLength;)
        done += (await target.write(bytes, done, bytes.byteLength - done, offset + done)).bytesWritten;
    });
    await file.sync();
    await file.close();
    file = undefined;
    if (options.replace !== true) await refuseExisting(path);
    await rename(temporary, path);
    await syncDirectory(dirname(path));
    return { size: disk.size, dataSize };
  } catch (error) {
    await file?.close();
    await unlink(temporary).catch(() => undefined);
    throw ioError(error, `export to "${path}"`, path);
  }
}

async function refuseExisting(path: string): Promise<void> {
  const found = await open(path, 'r').catch(() => undefined);
  if (found === undefined) return;
  await found.close();
  throw new IoError('OBD_IO_EXISTS', `Cannot export to "${path}": the file exists`, {
    source: path,
    hint: 'Use --force to replace it',
  });
}

async function syncDirectory(path: string): Promise<void> {
  const dir = await open(path, 'r');
  await dir.sync().finally(() => dir.close());
}

interface Step {
  readonly offset: number;
  readonly length: number;
}

/** Data runs cut into steps at multiples of {@link STEP}. */
function* steps(extents: Iterable<Extent>): Generator<Step> {
  for (const { offset, length, data } of extents) {
    if (!data) continue;
    for (let at = offset; at < offset + length;) {
      const end = Math.min(offset + length, at - (at % STEP) + STEP);
      yield { offset: at, length: end - at };
      at = end;
    }
  }
}

/** Reads all data, several steps at a time, and hands each to `write`, in any order. Gives the bytes of data. */
async function copyData(
  disk: ReadableBlob,
  options: ExportOptions,
  write: (offset: number, bytes: Uint8Array) => Promise<void>,
): Promise<number> {
  let total = 0;
  for (const { length } of steps(extentsOf(disk, 0, disk.size))) total += length;
  let done = 0;
  const todo = steps(extentsOf(disk, 0, disk.size));
  let failed = false;
  const lane = async (): Promise<void> => {
    const buffer = Buffer.allocUnsafeSlow(STEP);
    try {
      for (let next = todo.next(); next.done !== true && !failed; next = todo.next()) {
        checkSignal(options.signal);
        const { offset, length } = next.value;
        const bytes = buffer.subarray(0, length);
        await disk.read(offset, bytes, options.signal === undefined ? {} : { signal: options.signal });
        await write(offset, bytes);
        done += length;
        options.onProgress?.(done, total);
      }
    } catch (error) {
      failed = true;
      throw error;
    }
  };
  const results = await Promise.allSettled(Array.from({ length: IN_FLIGHT }, lane));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  return total;
}

/** Writes `disk` to a stream, in order, holes as zeroes. Reads ahead while the stream takes its time. */
export async function exportToStream(
  disk: ReadableBlob,
  stream: Writable,
  options: ExportOptions = {},
): Promise<ExportResult> {
  const zeroes = Buffer.alloc(STEP);
  let at = 0;
  let dataSize = 0;
  const put = async (bytes: Uint8Array): Promise<void> => {
    at += bytes.byteLength;
    options.onProgress?.(at, disk.size);
    checkSignal(options.signal);
    // The stream keeps what it was given until it drains.
    if (!stream.write(bytes))
      await once(stream, 'drain', options.signal === undefined ? {} : { signal: options.signal });
  };
  const fill = async (to: number): Promise<void> => {
    while (at < to) await put(zeroes.subarray(0, Math.min(STEP, to - at)));
  };
  const ahead: { readonly step: Step; readonly bytes: Promise<Buffer> }[] = [];
  const todo = steps(extentsOf(disk, 0, disk.size));
  const readAhead = (): void => {
    while (ahead.length < IN_FLIGHT) {
      const next = todo.next();
      if (next.done === true) return;
      const step = next.value;
      const bytes = Buffer.allocUnsafeSlow(step.length);
      const read = disk
        .read(step.offset, bytes, options.signal === undefined ? {} : { signal: options.signal })
        .then(() => bytes);
      read.catch(() => undefined); // Thrown when its turn comes.
      ahead.push({ step, bytes: read });
    }
  };
  try {
    for (;;) {
      readAhead();
      const first = ahead.shift();
      if (first === undefined) break;
      const bytes = await first.bytes;
      await fill(first.step.offset);
      await put(bytes);
      dataSize += bytes.byteLength;
    }
    await fill(disk.size);
  } finally {
    await Promise.allSettled(ahead.map(({ bytes }) => bytes));
  }
  return { size: disk.size, dataSize };
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw abortedError('export', signal);
}
