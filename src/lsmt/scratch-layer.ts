import { mkdtemp, rmdir, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ioError, SECTOR } from '../blob/index.js';
import type { DataFile, LayerInfo } from './layer.js';
import { RwFile } from './rw-file.js';
import { SegmentMap } from './segment-map.js';
import type { Segments } from './segment.js';
import type { WritableLayer } from './writable-layer.js';

/** What a scratch layer is made of. */
export interface ScratchLayerOptions {
  /** Bytes; 0 takes that of the layers below. */
  readonly virtualSize: number;
  /** Where its file lies; default the system's directory for temporary files. Holes must be cheap there. */
  readonly dir?: string;
  /** Stated parent of what is committed from it. */
  readonly parentUuid?: string | null;
}

/**
 * A writable layer that exists as long as the process: for conversions, which commit it to a sealed one. Its file has
 * no name (a crash leaves nothing behind) and holds sector s at s, so that rewriting costs no space, and what is
 * committed depends only on the content, not on the order of writes.
 */
export class ScratchLayer implements WritableLayer {
  readonly name = 'scratch layer';
  readonly readOnly = false;
  readonly map = new SegmentMap(true);
  readonly file: DataFile;
  readonly files: readonly DataFile[];
  readonly unit = SECTOR;
  readonly unitOrigin = 0;
  readonly #file: RwFile;
  #info: LayerInfo;

  private constructor(file: RwFile, info: LayerInfo) {
    this.#file = file;
    this.file = { blob: file, padsLastSector: false };
    this.files = [this.file];
    this.#info = info;
  }

  /** @throws IoError if the file cannot be made. */
  static async create(options: ScratchLayerOptions): Promise<ScratchLayer> {
    const parent = options.dir ?? tmpdir();
    try {
      const dir = await mkdtemp(join(parent, 'obd-scratch-'));
      const path = join(dir, 'data');
      const file = await RwFile.open(path, 'create', 'scratch layer');
      await unlink(path);
      await rmdir(dir);
      return new ScratchLayer(file, {
        virtualSize: options.virtualSize,
        uuid: null,
        parentUuid: options.parentUuid ?? null,
        userTag: new Uint8Array(0),
      });
    } catch (error) {
      throw ioError(error, `make a scratch layer in "${parent}"`, parent);
    }
  }

  get info(): LayerInfo {
    return this.#info;
  }

  segments(): Segments {
    return this.map.segments();
  }

  async store(offset: number, from: Uint8Array): Promise<void> {
    await this.#file.write(offset, from);
    this.map.setData(offset / SECTOR, from.byteLength / SECTOR, offset / SECTOR);
  }

  async zero(offset: number, length: number): Promise<void> {
    this.map.setZeroed(offset / SECTOR, length / SECTOR);
  }

  async flush(): Promise<void> {
    // Nobody can read it after this process.
  }

  async adoptVirtualSize(size: number): Promise<void> {
    this.#info = { ...this.#info, virtualSize: size };
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
