import {
  checkRange,
  RegistryError,
  type LocalFile,
  type LocallyStored,
  type ReadableBlob,
  type ReadOptions,
  type RefetchableBlob,
} from '../blob/index.js';
import type { SharedBlob } from './shared-blob.js';
import type { SourceReadOptions, UnitCheck } from './unit-fetcher.js';

/**
 * One user's handle on a cached blob: reads what is on disk, fetches what is not. Handles on one blob share its file
 * and what is on its way, and each brings its own source. Reads may overlap.
 */
export class CachedBlob implements ReadableBlob, LocallyStored, RefetchableBlob {
  readonly name: string;
  readonly size: number;
  readonly #shared: SharedBlob;
  readonly #source: SwitchSource;
  readonly #release: () => Promise<void>;
  readonly #beforeClose = new Set<() => Promise<void>>();
  #closing = false;
  #closed: Promise<void> | undefined;
  #inFlight = 0;
  #idle: (() => void) | undefined;

  /**
   * Use {@link BlobCache.open}.
   * @param source the source, owned; or how to open it at the first miss, owned from then on.
   */
  constructor(
    name: string,
    shared: SharedBlob,
    source: ReadableBlob | (() => Promise<ReadableBlob>),
    release: () => Promise<void>,
  ) {
    this.name = name;
    this.size = shared.size;
    this.#shared = shared;
    this.#source = new SwitchSource(name, shared.size, source);
    this.#release = release;
  }

  /** Bytes of the blob that are on local disk now. */
  get presentBytes(): number {
    return this.#shared.presentBytes;
  }

  /** Bytes per unit: what one miss fetches. */
  get unitSize(): number {
    return this.#shared.unitSize;
  }

  /** True once all of it is here and has been found to have its digest. */
  get verified(): boolean {
    return this.#shared.file?.verified === true;
  }

  async read(offset: number, into: Uint8Array, options: ReadOptions = {}): Promise<void> {
    checkRange(this, offset, into.byteLength);
    await this.#inside(() => this.#shared.read(offset, into, this.#source, { ...options, keep: true }));
  }

  /** {@link read}, but what has to be fetched is not stored: the caller keeps it elsewhere. */
  async readThrough(offset: number, into: Uint8Array, options: ReadOptions = {}): Promise<void> {
    checkRange(this, offset, into.byteLength);
    await this.#inside(() => this.#shared.read(offset, into, this.#source, { ...options, keep: false }));
  }

  async refetch(offset: number, length: number, options: ReadOptions = {}): Promise<void> {
    checkRange(this, offset, length);
    await this.#inside(() => this.#shared.refetch(offset, length, this.#source, options));
  }

  /**
   * Fetches what is not here of a range, behind everything that readers wait for; for what will be read soon.
   * @returns bytes that were not stored here. @throws what {@link read} throws
   */
  async prefetch(offset: number, length: number, options: ReadOptions = {}): Promise<number> {
    checkRange(this, offset, length);
    return length === 0
      ? 0
      : this.#inside(() => this.#shared.prefetch(offset, length, this.#source, options));
  }

  /**
   * Says which units will be read, one byte per unit, 1 = will be: a miss of only such units fetches nothing around them.
   */
  expect(units: Uint8Array): void {
    this.#shared.expect(units);
  }

  /** Sets a check of units as they are fetched, for all handles on this blob. Undefined takes it away. */
  setCheck(check: UnitCheck | undefined): void {
    this.#shared.check = check;
  }

  /** Has `stop` run, and awaited, when the blob is about to be closed: for work that reads it in the background. */
  beforeClose(stop: () => Promise<void>): void {
    this.#beforeClose.add(stop);
  }

  /** True if all of a range is on local disk now. */
  isLocal(offset: number, length: number): boolean {
    const file = this.#shared.file;
    if (!file) return false;
    const end = Math.ceil((offset + length) / file.unitSize);
    for (let unit = Math.floor(offset / file.unitSize); unit < end; unit++) if (!file.has(unit)) return false;
    return true;
  }

  /** Drops all of the local copy. */
  async forget(): Promise<void> {
    await this.#inside(() => this.#shared.forget());
  }

  /** From now on reads of the front part that miss are served elsewhere. Undefined goes back to the source alone. */
  divert(prefix: Prefix | undefined): void {
    this.#source.divert(prefix);
  }

  /**
   * For a blob with a file of its own (cache type `download`): when all of it is there and has its digest, makes it
   * durable and gives the file another name. The blob goes on reading it, and does not write to it any more.
   */
  async promote(target: string): Promise<'promoted' | 'incomplete' | 'damaged'> {
    return this.#inside(() => this.#shared.promote(target));
  }

  localFile(): LocalFile | undefined {
    const { file } = this.#shared;
    return (
      file && {
        fd: file.fd,
        shift: 0,
        size: this.size,
        unitSize: file.unitSize,
        presence: file.presence,
        touched: file.touched,
      }
    );
  }

  async #inside<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closing) throw new TypeError(`Read of "${this.name}" after close`);
    this.#inFlight++;
    try {
      return await work();
    } finally {
      if (--this.#inFlight === 0) this.#idle?.();
    }
  }

  close(): Promise<void> {
    this.#closing = true;
    this.#closed ??= (async () => {
      await Promise.allSettled([...this.#beforeClose].map((stop) => stop()));
      if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
      // Others may still be waiting for what was asked of this source; it ends those reads when it closes.
      try {
        await this.#release();
      } finally {
        await this.#source.close();
      }
    })();
    return this.#closed;
  }
}

/** The same bytes as a blob's first `end()` ones, at hand. */
export interface Prefix {
  readonly blob: Pick<ReadableBlob, 'read' | 'close'>;
  /** Asked again for every read; may grow. */
  readonly end: () => number;
  /** Whether to close it with the blob. */
  readonly owned: boolean;
  /** They were found to have the blob's digest: what is wrong in the cache may be mended from here, too. */
  readonly verified: boolean;
}

/** A source that is opened when it is first needed, and may be replaced for the front part of the blob. */
class SwitchSource {
  #prefix: Prefix | undefined;
  readonly #name: string;
  readonly #size: number;
  readonly #open: () => Promise<ReadableBlob>;
  #blob: Promise<ReadableBlob> | undefined;

  constructor(name: string, size: number, source: ReadableBlob | (() => Promise<ReadableBlob>)) {
    this.#name = name;
    this.#size = size;
    if (typeof source === 'function') this.#open = source;
    else {
      this.#open = async () => source;
      this.#blob = Promise.resolve(source);
    }
  }

  divert(prefix: Prefix | undefined): void {
    this.#prefix = prefix;
  }

  async read(offset: number, into: Uint8Array, options?: SourceReadOptions): Promise<void> {
    // What replaces damaged bytes does not come from where they may have come from.
    const prefix = options?.fresh === true && this.#prefix?.verified === false ? undefined : this.#prefix;
    const near = prefix ? Math.max(0, Math.min(prefix.end() - offset, into.byteLength)) : 0;
    if (prefix && near > 0) await prefix.blob.read(offset, into.subarray(0, near), options);
    if (near === into.byteLength) return;
    const blob = await this.#opened();
    await blob.read(offset + near, into.subarray(near), options);
  }

  /** Once; a failure is forgotten, so that the next miss tries again. */
  async #opened(): Promise<ReadableBlob> {
    this.#blob ??= this.#open().then(async (blob) => {
      if (blob.size === this.#size) return blob;
      await blob.close();
      throw new RegistryError(
        'OBD_REGISTRY_RESPONSE',
        `Cannot read blob "${this.#name}": the source has ${blob.size} bytes, expected ${this.#size}`,
        { source: this.#name, expected: this.#size, actual: blob.size },
      );
    });
    const opening = this.#blob;
    try {
      return await opening;
    } catch (error) {
      if (this.#blob === opening) this.#blob = undefined;
      throw error;
    }
  }

  async close(): Promise<void> {
    const blob = await this.#blob?.catch(() => undefined);
    await blob?.close();
    if (this.#prefix?.owned === true) await this.#prefix.blob.close();
  }
}
