/**
 * The sparse variant of a writable layer (formats.md 2.2): one file, virtual byte v at 4096 + v, and what the layer
 * holds is what is not a hole. There is no log, so the file system's holes are the index, at its granularity.
 *
 * Two things follow, and WritableLayerStack deals with both (docs/adr/0010-sparse-writable-layers.md): a write of part
 * of a block must bring the rest of the block along from below, or its zeroes would hide it; and a discard over data
 * of lower layers must be stored as zeroes, or the lower data would come back after reopening. A discard over nothing
 * is a hole. So a layer reopened, here or by the reference, shows what was written.
 */

import { unlink } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import { SECTOR } from '../blob/index.js';
import { dataExtents, punchHole } from '../native/index.js';
import { blockError, HEADER_SECTORS, HEADER_SIZE, HeaderFlag } from './format.js';
import type { DataFile, LayerInfo } from './layer.js';
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
import type { Segments } from './segment.js';
import { SegmentMap } from './segment-map.js';
import type { OpenLayerOptions, SealableLayer } from './writable-layer.js';

/** Zeroes written at once. */
const ZEROES = new Uint8Array(1 << 18);
/** Extents walked before other work gets its turn. */
const EXTENTS_PER_TURN = 4096;

/** A writable layer on one sparse file. */
export class SparseLayer implements SealableLayer {
  readonly name: string;
  readonly readOnly: boolean;
  readonly map: SegmentMap;
  readonly file: DataFile;
  readonly files: readonly DataFile[];
  readonly unit: number;
  readonly unitOrigin: number;
  readonly seamless = true;
  readonly #file: RwFile;
  #info: LayerInfo;
  #sealed = false;
  #unsealedSize = 0;

  private constructor(
    file: RwFile,
    map: SegmentMap,
    state: { info: LayerInfo; unit: number; readOnly: boolean },
  ) {
    this.name = file.name;
    this.readOnly = state.readOnly;
    this.#file = file;
    this.file = { blob: file, padsLastSector: false };
    this.files = [this.file];
    this.map = map;
    this.#info = state.info;
    this.unit = Math.max(state.unit, 4096);
    // Units are blocks of the file, in which the layer begins at byte 4096.
    this.unitOrigin = -(HEADER_SIZE % this.unit);
  }

  /**
   * Makes a new, empty layer, durably. The file must not exist.
   * @throws IoError
   */
  static async create(path: string, options: NewLayerOptions): Promise<SparseLayer> {
    const info = newLayerInfo(options);
    const file = await RwFile.open(path, 'create');
    try {
      file.lock('write');
      await writeRwHeader(file, HeaderFlag.HEADER | HeaderFlag.DATA | HeaderFlag.SPARSE, info);
      await file.truncate(HEADER_SIZE + info.virtualSize);
      await file.sync();
      await syncDirectoryOf(path);
      return new SparseLayer(file, new SegmentMap(true), {
        info,
        unit: await file.blockSize(),
        readOnly: false,
      });
    } catch (error) {
      await file.close();
      await unlink(path);
      throw error;
    }
  }

  /**
   * Opens a layer: asks the file system where its data is. One or two system calls per extent.
   * @throws FormatError, IoError
   */
  static async open(path: string, options: OpenLayerOptions = {}): Promise<SparseLayer> {
    const mode = options.mode ?? 'write';
    const file = await RwFile.open(path, mode);
    try {
      if (options.unlocked !== true) file.lock(mode);
      const header = await readRwHeader(file, 'data');
      const place = { source: file.name, offset: 0, kind: 'header' } as const;
      if ((header.flags & HeaderFlag.SPARSE) === 0) throw blockError(place, 'sparse bit', 1, 0);
      if (mode === 'write') await refuseSealed(file, header);
      const info = infoOf(header);
      const end = HEADER_SIZE + info.virtualSize;
      if (file.size < end)
        throw blockError(
          { ...place, offset: file.size },
          'file size',
          end,
          file.size,
          'The file was cut off',
        );
      const map = new SegmentMap(true);
      let walked = 0;
      for (const { offset, length } of dataExtents(file.fd, HEADER_SIZE, end)) {
        const first = Math.floor(offset / SECTOR);
        const last = Math.ceil((offset + length) / SECTOR);
        map.setData(first - HEADER_SECTORS, last - first, first);
        if (++walked % EXTENTS_PER_TURN === 0) await setImmediate();
      }
      return new SparseLayer(file, map, { info, unit: await file.blockSize(), readOnly: mode === 'read' });
    } catch (error) {
      await file.close();
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
    if (this.#sealed) throw new TypeError(`Write to "${this.name}" after it was sealed`);
    await this.#file.write(HEADER_SIZE + offset, from);
    const start = offset / SECTOR;
    this.map.setData(start, from.byteLength / SECTOR, start + HEADER_SECTORS);
  }

  async zero(offset: number, length: number, hidesData: boolean): Promise<void> {
    if (this.#sealed) throw new TypeError(`Write to "${this.name}" after it was sealed`);
    if (!hidesData && (await punchHole(this.#file.fd, HEADER_SIZE + offset, length))) {
      this.map.clear(offset / SECTOR, length / SECTOR);
      return;
    }
    for (let done = 0; done < length; done += ZEROES.byteLength)
      await this.store(offset + done, ZEROES.subarray(0, Math.min(ZEROES.byteLength, length - done)));
  }

  async flush(): Promise<void> {
    await this.#file.sync();
  }

  async adoptVirtualSize(size: number): Promise<void> {
    if (!this.readOnly) {
      await this.#file.truncate(HEADER_SIZE + size);
      await writeVirtualSize(this.#file, size);
    }
    this.#info = { ...this.#info, virtualSize: size };
  }

  /** Turns the file into a sealed layer where it lies, durably. Nothing may be written any more. */
  async seal(): Promise<void> {
    this.#sealed = true;
    this.#unsealedSize = this.#file.size;
    try {
      await sealDataFile(this.#file, this.segments(), this.#info, true);
    } catch (error) {
      await this.unseal();
      throw error;
    }
  }

  /** Takes {@link seal} back, durably: the layer is writable again. */
  async unseal(): Promise<void> {
    if (!this.#sealed) return;
    await cutSeal(this.#file, this.#unsealedSize);
    this.#sealed = false;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
