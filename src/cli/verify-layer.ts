/**
 * Checks everything about a stored layer that can be checked, and goes on after a fault so that all are found:
 *
 *   tar        header checksum, payload inside the blob
 *   ZFile      both ends, jump table, and every block: checksum, decompression, length
 *   LSMT       both ends, every index entry
 *   digest     of the whole blob, if it is known; read once, together with the rest
 *
 * A bad block is reported with where it is stored and which sectors of the disk it takes away.
 */
import { FormatError, OverlaybdError, RegistryError, type ReadableBlob } from '../blob/index.js';
import {
  isZeroed,
  hasLayerMagic,
  segmentLength,
  segmentMoffset,
  segmentStart,
  segmentTag,
  type SealedLayer,
} from '../lsmt/index.js';
import { tarPayload } from '../tar/index.js';
import { isZFile, parseZFileEnd, ZFileReader, ZFILE_END_SIZE } from '../zfile/index.js';
import { HashingBlob } from './hashing-blob.js';
import { faultOf, openEither, type FaultReport } from './layer-report.js';

/** Faults listed per layer; more are counted. A wholly damaged layer has hundreds of thousands. */
const MAX_FAULTS = 1000;
/** Plain bytes checked with one call while nothing is wrong. */
const STEP = 1 << 20;

/** A fault, and what it costs. */
export interface VerifyFault extends FaultReport {
  /** Of a bad ZFile block: its number. */
  readonly block?: number;
  /** Sectors of the disk that cannot be read because of it: [first, count]. */
  lostSectors?: (readonly [number, number])[];
}

/** What was checked of a layer, and what was wrong. */
export interface VerifyReport {
  readonly name: string;
  readonly storedSize: number;
  /** True if every fault is in `faults`. */
  readonly ok: boolean;
  readonly faults: readonly VerifyFault[];
  /** Faults beyond those listed. */
  readonly moreFaults: number;
  readonly warnings: readonly string[];
  /** ZFile blocks whose checksum and contents were checked. */
  readonly blocks: number;
  /** Absent if no digest was given. */
  readonly digest?: 'match' | 'mismatch' | 'not read';
  /** Entries of the LSMT index. */
  readonly segments?: number;
}

/** How to verify a layer. */
export interface VerifyOptions {
  /** Expected digest of the stored blob. */
  readonly digest?: string;
  /** Expected size of the stored blob. */
  readonly size?: number;
  /** Not an overlaybd layer: only the digest can be checked. */
  readonly opaque?: boolean;
  /** Opens the plain target of a warp layer. */
  readonly openTarget?: (() => Promise<ReadableBlob>) | undefined;
  /** Called with the stored bytes that have been checked. */
  readonly onProgress?: (done: number) => void;
}

/** Verifies a stored layer and closes it. Throws only for programmer's errors. */
export async function verifyLayer(stored: ReadableBlob, options: VerifyOptions = {}): Promise<VerifyReport> {
  const run = new Verification(stored, options);
  try {
    await run.all();
  } finally {
    await run.close();
  }
  return run.report();
}

class Verification {
  readonly #stored: ReadableBlob;
  readonly #options: VerifyOptions;
  readonly #hashing: HashingBlob | undefined;
  readonly #faults: VerifyFault[] = [];
  readonly #warnings: string[] = [];
  #more = 0;
  #blocks = 0;
  #digest: 'match' | 'mismatch' | 'not read' | undefined;
  #segments: number | undefined;
  #target: ReadableBlob | undefined;

  constructor(stored: ReadableBlob, options: VerifyOptions) {
    this.#stored = stored;
    this.#options = options;
    const { digest } = options;
    if (digest !== undefined) {
      this.#digest = 'not read';
      this.#hashing = new HashingBlob(stored, digest, options.onProgress);
    }
  }

  async all(): Promise<void> {
    const { size, opaque } = this.#options;
    if (size !== undefined && size > 0 && size !== this.#stored.size)
      this.#fault(
        new RegistryError(
          'OBD_REGISTRY_DIGEST',
          `"${this.#stored.name}" has ${this.#stored.size} bytes, expected ${size}`,
          { source: this.#stored.name, expected: size, actual: this.#stored.size },
        ),
      );
    if (opaque !== true) await this.#attempt(() => this.#contents(this.#hashing ?? this.#stored));
    await this.#attempt(() => this.#checkDigest());
  }

  async close(): Promise<void> {
    await Promise.allSettled([this.#stored.close(), this.#target?.close()]);
  }

  report(): VerifyReport {
    return {
      name: this.#stored.name,
      storedSize: this.#stored.size,
      ok: this.#faults.length === 0,
      faults: this.#faults,
      moreFaults: this.#more,
      warnings: this.#warnings,
      blocks: this.#blocks,
      ...(this.#digest === undefined ? {} : { digest: this.#digest }),
      ...(this.#segments === undefined ? {} : { segments: this.#segments }),
    };
  }

  #fault(error: unknown, more: Partial<VerifyFault> = {}): void {
    if (this.#faults.length === MAX_FAULTS) this.#more++;
    else this.#faults.push({ ...faultOf(error), ...more });
  }

  async #attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      this.#fault(error);
      return undefined;
    }
  }

  async #contents(blob: ReadableBlob): Promise<void> {
    const payload = await tarPayload(blob);
    const start = new Uint8Array(Math.min(ZFILE_END_SIZE, payload.size));
    await payload.read(0, start);
    if (!isZFile(start)) {
      if (hasLayerMagic(start))
        this.#warnings.push('not compressed: no checksum protects the data inside this file');
      await this.#attempt(() => this.#openLayer(payload));
      return;
    }
    const zfile = await ZFileReader.open(payload);
    await this.#attempt(() => checkTrailer(payload, zfile.end.legacy));
    if (!zfile.end.verify) this.#warnings.push('ZFile without block checksums: damage may go unnoticed');
    const bad = await this.#checkBlocks(zfile);
    const layer = await this.#attempt(() => this.#openLayer(zfile));
    if (layer !== undefined) this.#addLostSectors(layer, bad, zfile.end.blockSize);
  }

  async #openLayer(plain: ReadableBlob): Promise<SealedLayer> {
    const { openTarget } = this.#options;
    if (openTarget !== undefined) this.#target = await this.#attempt(openTarget);
    const { layer, warp } = await openEither(plain, this.#target);
    if (warp && openTarget === undefined)
      this.#warnings.push('TurboOCI layer without its target: what it takes from there is not checked');
    this.#segments = layer.index.length;
    const { virtualSize } = layer.info;
    if (virtualSize > 0 && layer.index.end * 512 > virtualSize)
      this.#warnings.push(
        `index reaches sector ${layer.index.end}, beyond the virtual size of ${virtualSize} bytes`,
      );
    if (this.#target !== undefined) await this.#checkTarget(layer, this.#target);
    return layer;
  }

  /** Reads everything that is mapped into the target: it has no checksums, but it must be there and unpack. */
  async #checkTarget(layer: SealedLayer, target: ReadableBlob): Promise<void> {
    const buffer = new Uint8Array(STEP);
    const { words, count } = layer.index.segments();
    for (let i = 0; i < count; i++) {
      if (segmentTag(words, i) !== 1 || isZeroed(words, i)) continue;
      const start = segmentMoffset(words, i) * 512;
      const end = start + segmentLength(words, i) * 512;
      const present = Math.min(end, Math.ceil(target.size / 512) * 512);
      if (present < end) this.#shortTarget(target, end, sectorsOf(layer, i, Math.max(start, present), end));
      for (let at = start; at < present; at += STEP) {
        const stop = Math.min(at + STEP, present);
        try {
          await target.read(at, buffer.subarray(0, Math.min(stop, target.size) - at));
        } catch (error) {
          this.#fault(error, { lostSectors: [sectorsOf(layer, i, at, stop)] });
        }
      }
    }
  }

  #shortTarget(target: ReadableBlob, end: number, lost: readonly [number, number]): void {
    const error = new FormatError(
      'OBD_FORMAT_TRUNCATED',
      `Target "${target.name}" ends at byte ${target.size}, but bytes up to ${end} are mapped`,
      { source: target.name, offset: target.size },
    );
    this.#fault(error, { lostSectors: [lost] });
  }

  /** Numbers of the bad blocks, ascending. */
  async #checkBlocks(zfile: ZFileReader): Promise<number[]> {
    const { blockSize, blocks } = zfile.end;
    const buffer = new Uint8Array(Math.max(STEP, blockSize));
    const bad: number[] = [];
    const step = Math.max(1, Math.floor(STEP / blockSize));
    for (let first = 0; first < blocks; first += step) {
      const offset = first * blockSize;
      const count = Math.min(step, blocks - first);
      const length = Math.min(count * blockSize, zfile.size - offset);
      try {
        await zfile.read(offset, buffer.subarray(0, length));
      } catch (error) {
        if (!isDamage(error)) throw error;
        await this.#checkOneByOne(zfile, first, count, buffer, bad);
      }
      this.#blocks += count;
      if (this.#hashing === undefined) this.#options.onProgress?.(zfile.storedBlock(first).offset);
    }
    return bad;
  }

  async #checkOneByOne(
    zfile: ZFileReader,
    first: number,
    count: number,
    buffer: Uint8Array,
    bad: number[],
  ): Promise<void> {
    const { blockSize } = zfile.end;
    for (let block = first; block < first + count; block++) {
      const length = Math.min(blockSize, zfile.size - block * blockSize);
      try {
        await zfile.read(block * blockSize, buffer.subarray(0, length));
      } catch (error) {
        if (!isDamage(error)) throw error;
        this.#fault(error, { block });
        if (bad.length < MAX_FAULTS) bad.push(block);
      }
    }
  }

  /** Says which sectors of the disk the bad blocks hold. */
  #addLostSectors(layer: SealedLayer, bad: readonly number[], blockSize: number): void {
    if (bad.length === 0) return;
    const byBlock = new Map<number, (readonly [number, number])[]>(bad.map((block) => [block, []]));
    const { words, count } = layer.index.segments();
    for (let i = 0; i < count; i++) {
      if (isZeroed(words, i) || segmentTag(words, i) !== 0) continue;
      const from = segmentMoffset(words, i) * 512;
      const to = from + segmentLength(words, i) * 512;
      for (let b = lowerBound(bad, Math.floor(from / blockSize)); b < bad.length; b++) {
        const block = bad[b] ?? 0;
        if (block * blockSize >= to) break;
        const start = Math.max(from, Math.floor((block * blockSize) / 512) * 512);
        const end = Math.min(to, Math.ceil(((block + 1) * blockSize) / 512) * 512);
        byBlock.get(block)?.push([segmentStart(words, i) + (start - from) / 512, (end - start) / 512]);
      }
    }
    for (const fault of this.#faults)
      if (fault.block !== undefined) fault.lostSectors = byBlock.get(fault.block) ?? [];
  }

  async #checkDigest(): Promise<void> {
    const { digest, opaque } = this.#options;
    if (this.#hashing === undefined || digest === undefined) {
      if (opaque === true) this.#warnings.push('not an overlaybd layer and no digest known: not checked');
      return;
    }
    const actual = `${digest.slice(0, digest.indexOf(':'))}:${await this.#hashing.finish()}`;
    this.#digest = actual === digest ? 'match' : 'mismatch';
    if (actual !== digest)
      this.#fault(
        new RegistryError(
          'OBD_REGISTRY_DIGEST',
          `Digest of "${this.#stored.name}" is ${actual}, expected ${digest}`,
          { source: this.#stored.name, expected: digest, actual },
        ),
      );
  }
}

/** Sectors of the disk that segment `i` maps to bytes [from, to) of its file. */
function sectorsOf(layer: SealedLayer, i: number, from: number, to: number): readonly [number, number] {
  const { words } = layer.index.segments();
  return [segmentStart(words, i) + from / 512 - segmentMoffset(words, i), (to - from) / 512];
}

/** True for errors of the bytes themselves, after which the next block may well be good. */
function isDamage(error: unknown): boolean {
  return (
    error instanceof OverlaybdError &&
    (error.code === 'OBD_FORMAT_CHECKSUM' || error.code === 'OBD_FORMAT_CORRUPT_BLOCK')
  );
}

/** The reader believes a final header and never looks at the trailer; others do. */
async function checkTrailer(payload: ReadableBlob, legacy: boolean): Promise<void> {
  const bytes = new Uint8Array(ZFILE_END_SIZE);
  const offset = payload.size - ZFILE_END_SIZE;
  await payload.read(offset, bytes);
  parseZFileEnd(bytes, 'trailer', payload.name, offset, !legacy);
}

/** Place of the first number at or above `value` in an ascending list. */
function lowerBound(list: readonly number[], value: number): number {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((list[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
