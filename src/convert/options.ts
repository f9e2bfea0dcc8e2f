/** What a conversion is told, and what it tells. */
import type { Descriptor, PushOutcome, WantedPlatform } from '../oci/index.js';
import type { LayerCounts } from '../ocilayer/index.js';
import type { ZFileWriterOptions } from '../zfile/index.js';
import type { LayerCache } from './layer-cache.js';

/** Families of media types. */
export type MediaFamily = 'oci' | 'docker';

/** Size of the virtual disk unless told otherwise: what the reference uses. */
export const DEFAULT_VIRTUAL_SIZE = 64 * 2 ** 30;
/** Work files of 16 TiB are more than most file systems can hold, even where they are empty. */
export const MAX_VIRTUAL_SIZE = 8 * 2 ** 40;

/** How to convert. */
export interface ConvertOptions {
  /** Where work files go: room for the unpacked image, its compressed layers, and what is fetched ahead. */
  readonly workDir: string;
  /** Bytes of the virtual disk; default 64 GiB. */
  readonly virtualSize?: number;
  /** Double the size of the disk, and begin again, for as long as the image does not fit. */
  readonly growVirtualSize?: boolean;
  /** Default: the source's. */
  readonly mediaTypes?: MediaFamily;
  /** Compression of the layers; default LZ4 in blocks of 4 KiB. */
  readonly zfile?: ZFileWriterOptions;
  /** Which image of an index; default: Linux on this machine's architecture. Several, or all, make an index. */
  readonly platform?: WantedPlatform | readonly WantedPlatform[] | 'all';
  /** The result refers to the source as its subject (OCI 1.1); implies OCI media types. */
  readonly referrer?: boolean;
  /** False leaves the target's tag alone: the result is found by its digest, or as a referrer. */
  readonly tag?: boolean;
  /** What was converted before. */
  readonly cache?: LayerCache;
  readonly signal?: AbortSignal;
  readonly warn?: (message: string) => void;
  /** Bytes of source blobs taken in so far, of all that are needed. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly onEvent?: (event: ConvertEvent) => void;
}

/** One layer, before and after. */
export interface ConvertedLayer {
  /** 0 is the bottom. */
  readonly index: number;
  readonly source: Descriptor;
  readonly descriptor: Descriptor;
  readonly uuid: string;
  /** Bytes of blocks it stores, before compression. */
  readonly dataSize: number;
  readonly outcome: PushOutcome;
  /** True if an earlier conversion made it. */
  readonly reused: boolean;
  readonly counts: LayerCounts;
}

/** What a conversion came to. */
export interface ConvertedImage {
  /** The source's manifest or index. */
  readonly source: Descriptor;
  /** The new one, which the target's name now leads to. */
  readonly descriptor: Descriptor;
  /** `os/arch[/variant]`, of a manifest. */
  readonly platform?: string;
  /** Bytes of the virtual disk, of a manifest. */
  readonly virtualSize?: number;
  /** Of all images. */
  readonly layers: readonly ConvertedLayer[];
  /** Sums of the layers' blobs. */
  readonly sourceSize: number;
  readonly size: number;
  /** Of an index: its images. */
  readonly images?: readonly ConvertedImage[];
}

/** What happens, in order. Sizes are bytes, layers are counted from the bottom, 0 first. */
export type ConvertEvent =
  | {
      readonly event: 'start';
      /** Digest of the source's manifest. */
      readonly manifest: string;
      readonly platform: string;
      readonly layers: number;
      readonly size: number;
      readonly virtualSize: number;
    }
  | {
      readonly event: 'progress';
      readonly manifest: string;
      readonly layer: number;
      readonly done: number;
      readonly size: number;
    }
  | {
      readonly event: 'layer';
      readonly manifest: string;
      readonly layer: number;
      readonly digest: string;
      readonly size: number;
      readonly outcome: PushOutcome;
      readonly reused: boolean;
    }
  | {
      readonly event: 'pushed';
      readonly digest: string;
      readonly mediaType: string;
      readonly size: number;
    };

/** Bytes of all descriptors. */
export function sumSizes(descriptors: readonly { readonly size: number }[]): number {
  return descriptors.reduce((sum, { size }) => sum + size, 0);
}

/**
 * The size of the disk to begin with: at least `least`, doubled until layers that unpack to four times their size would
 * fit. Depends on the image only.
 */
export function firstVirtualSize(least: number, layers: readonly Descriptor[], grow: boolean): number {
  let size = least;
  while (grow && size < 4 * sumSizes(layers) && size * 2 <= MAX_VIRTUAL_SIZE) size *= 2;
  return size;
}
