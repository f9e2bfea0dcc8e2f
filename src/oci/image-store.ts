/**
 * Where images come from and go to. Each kind of place is behind the same two interfaces:
 *
 *   docker://host[:port]/repository[:tag][@digest]   a registry                 (registry-image.ts)
 *   oci:DIRECTORY[:tag]                              an OCI image layout        (layout-image.ts)
 *   oci-archive:FILE[:tag]                           a layout in a tar          (archive-image.ts, archive-target.ts)
 *   docker-archive:FILE[:reference]                  what docker save writes    (docker-archive.ts, archive-target.ts)
 *   containerd:NAME                                  containerd's image store  (room containerd)
 *
 * Everything read is checked against its digest before it is believed; everything written becomes visible under its
 * name only when it is complete: blobs first, manifests after the blobs they name, the tag last.
 */
import type { Readable } from 'node:stream';
import type { ReadableBlob, ReadOptions } from '../blob/index.js';
import type { Descriptor, Index, Manifest } from './manifest.js';

/** A manifest or index with the exact bytes its digest was made from. */
export type ImageDocument =
  | {
      readonly kind: 'manifest';
      readonly descriptor: Descriptor;
      readonly bytes: Uint8Array;
      readonly manifest: Manifest;
    }
  | {
      readonly kind: 'index';
      readonly descriptor: Descriptor;
      readonly bytes: Uint8Array;
      readonly index: Index;
    };

/** Where in a registry an image is. */
export interface RegistryPlace {
  /** Host[:port] of the registry's API. */
  readonly host: string;
  readonly repository: string;
}

/** An image that can be read. Calls may overlap. */
export interface ImageSource {
  /** As the user would write it: `docker://host/repo:tag`, `oci:dir:tag`. For messages. */
  readonly name: string;
  /** Set if reading goes over a network. */
  readonly place?: RegistryPlace;
  /** What the name's tag or digest points to. `descriptor.mediaType`, `digest` and `size` are those of the bytes. */
  resolve(options?: ReadOptions): Promise<ImageDocument>;
  /**
   * A manifest or index named by an entry of an index.
   * @throws RegistryError OBD_REGISTRY_NOT_FOUND, or OBD_REGISTRY_DIGEST if the bytes are not those of the digest.
   */
  document(descriptor: Descriptor, options?: ReadOptions): Promise<ImageDocument>;
  /**
   * A small blob as a whole (a configuration), digest checked.
   * @param maxSize refuses larger ones before fetching them; default {@link MAX_CONFIG_SIZE}.
   */
  readBlob(
    descriptor: Descriptor,
    options?: ReadOptions & { readonly maxSize?: number },
  ): Promise<Uint8Array>;
  /**
   * A blob as a byte stream from its first byte. A broken connection is taken up where it broke. Size and digest are
   * checked as it runs: the stream *errors* instead of ending if they are wrong, so nothing made from it may be kept
   * before `end`. Destroying it releases everything.
   */
  streamBlob(descriptor: Descriptor, options?: ReadOptions): Promise<Readable>;
  /** A blob for reading at any offset, without a digest check (the whole is not seen). The caller closes it. */
  openBlob(descriptor: Descriptor, options?: ReadOptions): Promise<ReadableBlob>;
  /** Idempotent. */
  close(): Promise<void>;
}

/** How a blob got to the target. */
export type PushOutcome = 'pushed' | 'exists' | 'mounted';

/** Options of a push. */
export interface PushBlobOptions extends ReadOptions {
  /** A repository of the same registry that has the blob: it is mounted instead of sent where the registry can. */
  readonly mountFrom?: string;
  /** The digest was taken from these very bytes just now, so a target that could take it again need not. */
  readonly verified?: boolean;
  /** Bytes that have newly arrived at the target; never called after the promise settled. */
  readonly onProgress?: (bytes: number) => void;
}

/** A place an image can be written to. Calls may overlap, except as said. */
export interface ImageTarget {
  readonly name: string;
  /** Repository within the registry, if it is one: `mountFrom` of another push to the same host. */
  readonly repository: string | undefined;
  /** Set if it is in a registry. */
  readonly place?: RegistryPlace;
  /** True if its format has no place for an index of several images. */
  readonly singleImage?: boolean;
  /** Fails early if the image could not be stored at the end, because its name is taken for one. */
  check?(): Promise<void>;
  /** True if the target has the blob already. */
  hasBlob(descriptor: Descriptor, options?: ReadOptions): Promise<boolean>;
  /**
   * Stores a blob unless it is there. `content` is read at any offset (so a broken upload is taken up again), its size
   * must be the descriptor's; the target checks the digest. `content` stays the caller's.
   */
  pushBlob(
    descriptor: Pick<Descriptor, 'digest' | 'size'>,
    content: ReadableBlob,
    options?: PushBlobOptions,
  ): Promise<PushOutcome>;
  /**
   * Takes a blob over from another repository of the same registry, if the registry can and may.
   * @returns false if it has to be pushed.
   */
  mountBlob?(
    descriptor: Pick<Descriptor, 'digest' | 'size'>,
    from: string,
    options?: ReadOptions,
  ): Promise<boolean>;
  /**
   * Stores a manifest or index by its digest. Every blob and manifest that it names must have been pushed before.
   * @returns its descriptor (media type, digest, size).
   */
  pushManifest(bytes: Uint8Array, mediaType: string, options?: ReadOptions): Promise<Descriptor>;
  /** The last step: points the name's tag at a manifest or index that was pushed. Atomic. */
  tag(descriptor: Descriptor, options?: ReadOptions): Promise<void>;
  /** Idempotent. */
  close(): Promise<void>;
}
