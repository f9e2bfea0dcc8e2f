/**
 * The append variant of a writable layer (formats.md 2.1): a data file to which every write is appended, and an index
 * file that logs the mapping (index-log.ts).
 *
 *   write    data -> end of the data file; then record -> end of the index file; then the map; then the caller hears
 *   discard  record only
 *   flush    fdatasync(data), then fdatasync(index)
 *
 * A completed write survives the death of the process, because both files have it. A flushed one survives power loss.
 * The order inside a flush is what recovery rests on: a record on disk whose data is not belongs to a write that was
 * never flushed. The kernel may write a record early, by itself; then the data file is too short for it (blocks of a
 * growing file are allocated as they are written), and replay stops there.
 */

import { copyFile, realpath, unlink, writeFile } from 'node:fs/promises';
import { FormatError, ioError, roundUp, SECTOR } from '../blob/index.js';
import { ChangeCount } from './change-count.js';
import { compactLayer, type CompactOptions, type CompactResult } from './compaction.js';
import { Epoch } from './epoch.js';
import { blockError, HEADER_SECTORS, HEADER_SIZE, HeaderFlag } from './format.js';
import { LogWriter, replayLog, type LogRecord, type Recovery } from './index-log.js';
import { rewrittenName } from './index-rewrite.js';
import type { DataFile, LayerInfo } from './layer.js';
import { appendPlaced, MAX_RECORDS, MAX_WRITE, type Placement } from './placement.js';
import { RwFile } from './rw-file.js';
import {
  infoOf,
  newLayerInfo,
  readRwHeader,
  refuseSealed,
  syncDirectoryOf,
  writeRwHeader,
  writeVirtualSize,
  type NewLayerOptions,
} from './rw-header.js';
import { cutSeal, sealDataFile } from './seal-layer.js';
import { MAX_SEGMENT_SECTORS, type Segments } from './segment.js';
import { SegmentMap } from './segment-map.js';
import type { LayerUsage, OpenLayerOptions, SealableLayer } from './writable-layer.js';

/** The two files of an append layer. */
export interface LayerPaths {
  readonly data: string;
  readonly index: string;
}

/** A log-structured writable layer on two files. */
export class AppendLayer implements SealableLayer {
  readonly name: string;
  readonly readOnly: boolean;
  readonly map: SegmentMap;
  readonly file: DataFile;
  readonly files: readonly DataFile[];
  readonly unit = SECTOR;
  readonly unitOrigin = 0;
  readonly seamless = true;
  readonly changes = new ChangeCount();
  /** Set if the log was damaged. The caller tells the operator. */
  readonly recovery: Recovery | undefined;
  readonly #data: RwFile;
  readonly #log: LogWriter;
  readonly #indexPath: string;
  readonly #writes = new Epoch();
  readonly #closing = new AbortController();
  #compacting: Promise<unknown> | undefined;
  /** While the data file is cut, writes wait. */
  #cutting: Promise<void> | undefined;
  #info: LayerInfo;
  #sealed = false;
  #placing = false;
  /** Of the data file, before it was sealed. */
  #unsealedSize = 0;
  /** Where the next write's data goes. */
  #tail: number;
  /** End of the data whose write has completed: the data file is at least this long. */
  #written: number;

  private constructor(
    data: RwFile,
    index: RwFile,
    map: SegmentMap,
    state: {
      info: LayerInfo;
      indexPath: string;
      logEnd: number;
      recovery: Recovery | undefined;
      readOnly: boolean;
      maxRecords?: number | undefined;
    },
  ) {
    this.name = data.name;
    this.readOnly = state.readOnly;
    this.#data = data;
    this.#indexPath = state.indexPath;
    this.map = map;
    this.file = { blob: data, padsLastSector: false };
    this.files = [this.file];
    this.recovery = state.recovery;
    this.#info = state.info;
    this.#log = new LogWriter(index, map, {
      end: state.logEnd,
      zeroMoffset: () => this.#written / SECTOR,
      ...(state.maxRecords === undefined ? {} : { maxRecords: state.maxRecords }),
    });
    this.#tail = roundUp(data.size, SECTOR);
    this.#written = Math.floor(data.size / SECTOR) * SECTOR;
  }

  /**
   * Makes a new, empty layer, durably. Neither file may exist.
   * @throws IoError
   */
  static async create(paths: LayerPaths, options: NewLayerOptions): Promise<AppendLayer> {
    const info = newLayerInfo(options);
    const data = await RwFile.open(paths.data, 'create');
    let index: RwFile | undefined;
    try {
      data.lock('write');
      index = await RwFile.open(paths.index, 'create');
      await writeRwHeader(data, HeaderFlag.HEADER | HeaderFlag.DATA, info);
      await writeRwHeader(index, HeaderFlag.HEADER, info, HEADER_SIZE);
      await Promise.all([data.sync(), index.sync()]);
      await syncDirectoryOf(paths.data);
      await syncDirectoryOf(paths.index);
      return new AppendLayer(data, index, new SegmentMap(false), {
        info,
        indexPath: paths.index,
        logEnd: HEADER_SIZE,
        recovery: undefined,
        readOnly: false,
      });
    } catch (error) {
      await data.close();
      await unlink(paths.data);
      if (index !== undefined) {
        await index.close();
        await unlink(paths.index);
      }
      throw error;
    }
  }

  /**
   * Opens a layer and replays its log. If the log is damaged, {@link recovery} says so, the state is that before the
   * damage, and in mode `write` the rest of the log is saved beside it and cut off.
   * @throws FormatError, IoError
   */
  static async open(paths: LayerPaths, options: OpenLayerOptions = {}): Promise<AppendLayer> {
    const mode = options.mode ?? 'write';
    const data = await RwFile.open(paths.data, mode);
    let index: RwFile | undefined;
    try {
      if (options.unlocked !== true) data.lock(mode);
      const header = await readRwHeader(data, 'data');
      if ((header.flags & HeaderFlag.SPARSE) !== 0)
        throw blockError({ source: data.name, offset: 0, kind: 'header' }, 'sparse bit', 0, 1);
      if (mode === 'write') await refuseSealed(data, header);
      index = await RwFile.open(paths.index, mode);
      const info = await readIndexHeader(index, data.name, header.uuid);
      const map = new SegmentMap(false);
      const { end, recovery } = await replayLog(index, data.size, map);
      if (recovery !== undefined) {
        if (options.strict === true)
          throw new FormatError(
            'OBD_FORMAT_BAD_INDEX',
            `Cannot open layer "${data.name}": ${recovery.message}`,
            {
              source: index.name,
              offset: recovery.offset,
            },
          );
        if (mode === 'write') await cutLog(paths.index, index, recovery);
      }
      if (mode === 'write') await unlink(rewrittenName(await realpath(paths.index))).catch(() => undefined);
      return new AppendLayer(data, index, map, {
        info,
        indexPath: paths.index,
        logEnd: end,
        recovery,
        readOnly: mode === 'read',
        maxRecords: options.maxRecords,
      });
    } catch (error) {
      await data.close();
      await index?.close();
      throw error;
    }
  }

  get info(): LayerInfo {
    return this.#info;
  }

  segments(): Segments {
    return this.map.segments(HEADER_SECTORS);
  }

  async store(offset: number, from: Uint8Array): Promise<void> {
    if (this.#sealed || this.#placing)
      throw new TypeError(`Write to "${this.name}" after it was sealed, or while data is placed in it`);
    this.changes.add();
    while (this.#cutting !== undefined) await this.#cutting;
    await this.#writes.run(async () => {
      const start = this.#tail;
      this.#tail += from.byteLength;
      await this.#data.write(start, from);
      this.#written = Math.max(this.#written, start + from.byteLength);
      const records: LogRecord[] = [];
      for (let done = 0; done < from.byteLength; done += MAX_WRITE)
        records.push({
          offset: (offset + done) / SECTOR,
          length: Math.min(MAX_WRITE, from.byteLength - done) / SECTOR,
          moffset: (start + done) / SECTOR,
          zeroed: false,
        });
      await this.#log.append(records);
    });
  }

  async zero(offset: number, length: number): Promise<void> {
    if (this.#sealed) throw new TypeError(`Write to "${this.name}" after it was sealed`);
    this.changes.add();
    const end = (offset + length) / SECTOR;
    let records: LogRecord[] = [];
    for (let at = offset / SECTOR; at < end; at += MAX_SEGMENT_SECTORS) {
      records.push({ offset: at, length: Math.min(MAX_SEGMENT_SECTORS, end - at), moffset: 0, zeroed: true });
      if (records.length === MAX_RECORDS) {
        await this.#log.append(records);
        records = [];
      }
    }
    await this.#log.append(records);
  }

  /** Lets somebody else write data, in any order, which becomes the layer's in one step. Nothing may be stored meanwhile. */
  place(): Placement {
    if (this.#sealed || this.readOnly || this.#placing || this.#compacting !== undefined)
      throw new TypeError(`"${this.name}" is sealed, open for reading, or in use`);
    this.#placing = true;
    const { size } = this.#data;
    const offset = this.#tail;
    let finished = false;
    return {
      fd: this.#data.fd,
      offset,
      finish: async (runs, length) => {
        finished = true;
        this.changes.add();
        this.#data.grewTo(offset + length);
        this.#tail = this.#written = roundUp(offset + length, SECTOR);
        this.#placing = false;
        await appendPlaced(this.#log, runs, offset);
      },
      abandon: async () => {
        if (finished) return;
        await this.#data.truncate(size);
        this.#placing = false;
      },
    };
  }

  async flush(): Promise<void> {
    await this.#data.sync();
    await this.#log.file.sync();
  }

  get usage(): LayerUsage {
    return {
      size: this.#tail - HEADER_SIZE,
      live: this.map.dataSectors * SECTOR,
      records: this.#log.records,
      segments: this.map.length,
      changes: this.changes.count,
    };
  }

  /**
   * Gives back the space of what was overwritten (compaction.ts), while reads and writes go on. One at a time.
   * @param readsPassed settles when the reads that are in flight now have ended; default: there are none.
   * @throws IoError; AbortError if the layer is closed meanwhile, or by the signal.
   */
  async compact(
    options: CompactOptions = {},
    readsPassed: () => Promise<void> = async () => undefined,
  ): Promise<CompactResult> {
    if (this.#sealed || this.readOnly || this.#placing || this.#compacting !== undefined)
      throw new TypeError(`"${this.name}" is sealed, open for reading, or being compacted`);
    const { signal } = this.#closing;
    const work = (async () =>
      compactLayer(
        {
          data: this.#data,
          log: this.#log,
          map: this.map,
          indexPath: await realpath(this.#indexPath),
          tail: () => this.#tail / SECTOR,
          writesPassed: () => this.#writes.passed(),
          readsPassed,
          flush: () => this.flush(),
          cutInTurn: (end, sector) => this.#cut(end * SECTOR, sector * SECTOR),
        },
        {
          ...options,
          signal: options.signal === undefined ? signal : AbortSignal.any([signal, options.signal]),
        },
      ))();
    this.#compacting = work.catch(() => undefined);
    try {
      return await work;
    } finally {
      this.#compacting = undefined;
    }
  }

  async #cut(end: number, size: number): Promise<boolean> {
    if (this.#tail !== end) return false;
    this.#tail = size;
    this.#written = size;
    this.#cutting = this.#data.truncate(size).finally(() => (this.#cutting = undefined));
    await this.#cutting;
    return true;
  }

  async adoptVirtualSize(size: number): Promise<void> {
    if (!this.readOnly) {
      await writeVirtualSize(this.#data, size);
      await writeVirtualSize(this.#log.file, size);
    }
    this.#info = { ...this.#info, virtualSize: size };
  }

  /**
   * Turns the data file into a sealed layer where it lies, durably; the index file is no longer needed. Nothing may
   * be written any more.
   */
  async seal(): Promise<void> {
    if (this.#compacting !== undefined || this.#placing)
      throw new TypeError(`"${this.name}" is being compacted, or data is placed in it`);
    this.#sealed = true;
    this.#unsealedSize = this.#data.size;
    try {
      await sealDataFile(this.#data, this.segments(), this.#info, false);
    } catch (error) {
      await this.unseal();
      throw error;
    }
  }

  /** Takes {@link seal} back, durably: the layer is writable again. */
  async unseal(): Promise<void> {
    if (!this.#sealed) return;
    await cutSeal(this.#data, this.#unsealedSize);
    this.#sealed = false;
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#compacting;
    await this.#data.close();
    await this.#log.file.close();
  }
}

async function readIndexHeader(index: RwFile, dataName: string, dataUuid: string | null): Promise<LayerInfo> {
  const header = await readRwHeader(index, 'index');
  const place = { source: index.name, offset: 32, kind: 'index header' } as const;
  if (header.indexOffset !== BigInt(HEADER_SIZE))
    throw blockError(place, 'index offset', HEADER_SIZE, header.indexOffset.toString());
  if (header.uuid !== null && dataUuid !== null && header.uuid !== dataUuid)
    throw blockError(
      { ...place, offset: 56 },
      'uuid',
      dataUuid,
      header.uuid,
      `This index does not belong to "${dataName}"`,
    );
  return infoOf(header);
}

/** Saves what is cut off the log, so that recovery destroys nothing, then cuts. */
async function cutLog(path: string, index: RwFile, recovery: Recovery): Promise<void> {
  const saved = await saveCopy(path);
  await index.truncate(recovery.offset);
  await index.sync();
  recovery.savedAs = saved;
}

async function saveCopy(path: string): Promise<string> {
  for (let n = 0; ; n++) {
    const saved = `${path}.damaged-${n}`;
    try {
      await writeFile(saved, '', { flag: 'wx' });
      await copyFile(path, saved);
      return saved;
    } catch (error) {
      if (n < 1000 && (error as NodeJS.ErrnoException).code === 'EEXIST') continue;
      throw ioError(error, `save damaged log as "${saved}"`, saved);
    }
  }
}
