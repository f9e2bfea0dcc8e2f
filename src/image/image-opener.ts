/**
 * Everything of a process with which images are opened: the way to registries, and the caches, as overlaybd.json says.
 * Each is made when the first image needs it, so a purely local image touches neither network nor cache directory.
 */
import { stat } from 'node:fs/promises';
import { abortedError, type ReadableBlob } from '../blob/index.js';
import {
  BlobCache,
  CachedBlob,
  cacheOptions,
  Download,
  EXACT_UNIT,
  openCachedRemote,
  type CacheConfigKeys,
  type CacheStats,
  type DownloadProgress,
} from '../cache/index.js';
import type { AuditLog, Logger } from '../log/index.js';
import { AppendLayer, WritableLayerStack } from '../lsmt/index.js';
import { registryOptionsOf, RegistryClient } from '../registryblob/index.js';
import { BackgroundCompaction, type Compactable } from './background-compaction.js';
import { FetchRecord } from './fetch-record.js';
import { loadImageConfig, type ImageConfig } from './image-config.js';
import { sourceName, type LayerSource, type RemoteRequest } from './layer-source.js';
import {
  finishSnapshot,
  noSnapshot,
  snapshotIsBusy,
  takeSnapshot,
  type SnapshotHooks,
  type SnapshotResult,
} from './live-snapshot.js';
import { openImage, type OpenedImage, type OpenImageOptions } from './open-image.js';
import type { ServiceConfig } from './service-config.js';
import { SourceTraffic } from './source-traffic.js';

/** How one image is opened. */
export interface OpenOptions {
  /** See `OpenImageOptions.mode`. */
  readonly mode?: 'read' | 'write';
  readonly name?: string;
  /** Where the configuration stands: without it there are no live snapshots. {@link ImageOpener.open} knows. */
  readonly configPath?: string;
  /**
   * The image will be open for long: let its layers be downloaded in the background, if the configuration says so.
   * Closing the image ends that. Default false.
   */
  readonly download?: boolean;
  /**
   * The image will be written to for long: let its writable layer be compacted in the background, if the configuration says
   * so. Closing the image ends that. Default false.
   */
  readonly compact?: boolean;
  /** See `OpenImageOptions.tap`. */
  readonly tap?: OpenImageOptions['tap'];
  /** It is known what will be read: blobs that are not in the cache yet get small units. Default false. */
  readonly foretold?: boolean;
  /** Aborting rejects the opening and leaves nothing open. */
  readonly signal?: AbortSignal;
}

/** What an image costs. */
export interface ImageStats {
  /** Stored bytes of the layers that come from a registry; 0 if all are local files. */
  readonly remoteBytes: number;
  /** How many of those are on local disk now. */
  readonly presentBytes: number;
  /** Bytes that were fetched for this image since it was opened. */
  readonly bytesFetched: number;
  /** How far the background download is; undefined if there is none. */
  readonly download: DownloadProgress | undefined;
}

/** An image, and what it costs. */
export interface HostedImage extends OpenedImage {
  /** As it is now: a snapshot changes it. */
  readonly config: ImageConfig;
  /** What came from registries for it. */
  readonly fetches: FetchRecord;
  /** Cheap. */
  stats(): ImageStats;
  /**
   * Takes a live snapshot (live-snapshot.ts): the configuration at `newConfigPath` takes the place of the image's own.
   * @throws DeviceError OBD_DEVICE_UNSUPPORTED if the image is read-only or not from a file, OBD_DEVICE_BUSY if one is being
   * taken; ConfigError, IoError, FormatError. The image is as it was then.
   */
  snapshot(newConfigPath: string, hooks: SnapshotHooks): Promise<SnapshotResult>;
}

/** One per process. */
export class ImageOpener {
  /** What was read from registries. */
  readonly traffic: SourceTraffic;
  readonly #config: ServiceConfig;
  /** Where what is wrong with images and registries is said. */
  readonly log: Logger;
  readonly #log: Logger;
  #client: RegistryClient | undefined;
  #cache: Promise<BlobCache> | undefined;
  #gzipCache: Promise<BlobCache> | undefined;
  #quiesce: (() => Promise<void>) | undefined;
  readonly #openCaches = new Map<'registry' | 'gzip', BlobCache>();
  /** Openings that were aborted and have not ended yet. */
  readonly #dropped = new Set<Promise<void>>();

  /** @param audit where reads of registries are noted; stays its owner's. */
  constructor(config: ServiceConfig, log: Logger, audit?: AuditLog) {
    this.traffic = new SourceTraffic(audit);
    this.#config = config;
    this.log = log;
    this.#log = log;
  }

  /** See `BlobCache.setQuiesce`; for whoever runs I/O workers. */
  async setQuiesce(quiesce: () => Promise<void>): Promise<void> {
    this.#quiesce = quiesce;
    for (const cache of [this.#cache, this.#gzipCache]) (await cache)?.setQuiesce(quiesce);
  }

  /**
   * Reads an image's configuration file. Unless it is for reading only, a live snapshot that was cut off is ended first.
   * @throws IoError, ConfigError
   */
  async load(configPath: string, mode: 'read' | 'write' = 'write'): Promise<ImageConfig> {
    if (mode === 'write') await finishSnapshot(configPath, this.#log);
    return loadImageConfig(configPath, this.#log);
  }

  /** The way to registries. @throws ConfigError */
  get client(): RegistryClient {
    return (this.#client ??= new RegistryClient(registryOptionsOf(this.#config, this.#log)));
  }

  /** Answers of registries so far, by HTTP status; failures without an answer by their kind. Empty before the first. */
  get registryAnswers(): ReadonlyMap<string, number> {
    return this.#client?.answers ?? new Map<string, number>();
  }

  /** What the caches hold and did: those that an image has needed so far. */
  cacheStats(): ReadonlyMap<'registry' | 'gzip', CacheStats> {
    return new Map([...this.#openCaches].map(([name, cache]) => [name, cache.stats]));
  }

  /** Opens the image of a configuration file. @throws IoError, ConfigError, ImageError */
  async open(configPath: string, options: OpenOptions = {}): Promise<HostedImage> {
    return this.openConfig(await this.load(configPath, options.mode), {
      name: configPath,
      configPath,
      ...options,
    });
  }

  /** Opens an image. @throws ImageError */
  async openConfig(opened: ImageConfig, options: OpenOptions = {}): Promise<HostedImage> {
    let config = opened;
    const fetches = new FetchRecord();
    const { signal, download: mayDownload, compact: mayCompact, foretold, configPath, ...rest } = options;
    this.#allowNamedHttp(config.repoBlobUrl);
    const opening = openImage(config, {
      ...rest,
      log: this.#log,
      openRemote: async (request) => {
        if (signal?.aborted === true) throw abortedError('open image', signal);
        return this.#openRemote(request, fetches, foretold === true ? EXACT_UNIT : undefined);
      },
      // A device that is used for long gets a cache in any case: without one each read would unpack a span.
      ...(this.#config.gzipCacheConfig.enable || mayDownload === true
        ? { cacheGzip: (plain, target) => this.#cacheGzip(plain, target) }
        : {}),
    });
    const image = await this.#unlessAborted(opening, signal);
    fetches.opened();
    const remote = image.lowers.flatMap(({ source, stored, target }) => [
      ...(source.kind === 'remote' ? [stored] : []),
      ...(target !== undefined && 'presentBytes' in target ? [target] : []),
    ]);
    const download = mayDownload === true ? await this.#download(config, image) : undefined;
    const compact = (): BackgroundCompaction | undefined =>
      mayCompact === true ? this.#compaction(image) : undefined;
    let compaction = compact();
    let snapshotting: Promise<SnapshotResult> | undefined;
    const snapshot = async (newConfigPath: string, hooks: SnapshotHooks): Promise<SnapshotResult> => {
      if (image.readOnly || configPath === undefined || !(image.blob instanceof WritableLayerStack))
        return noSnapshot(image.blob.name);
      await compaction?.close();
      try {
        const target = { stack: image.blob, config, configPath };
        const taken = await takeSnapshot(target, newConfigPath, hooks, this.#log);
        config = taken.config;
        return taken.result;
      } finally {
        compaction = compact();
      }
    };
    return {
      ...image,
      fetches,
      get config() {
        return config;
      },
      snapshot: (newConfigPath, hooks) => {
        if (snapshotting !== undefined) return Promise.reject(snapshotIsBusy(image.blob.name));
        snapshotting = snapshot(newConfigPath, hooks).finally(() => (snapshotting = undefined));
        return snapshotting;
      },
      close: async () => {
        await snapshotting?.catch(() => undefined);
        await compaction?.close();
        await image.close();
      },
      stats: () => ({
        remoteBytes: remote.reduce((sum, blob) => sum + blob.size, 0),
        presentBytes: remote.reduce((sum, blob) => sum + presentBytes(blob), 0),
        bytesFetched: fetches.bytes,
        download: download?.progress,
      }),
    };
  }

  /**
   * A configuration that says `http://` names its host insecure: whoever may write it decides what the service reads
   * anyway, and the reference's snapshotter has no other way to say so (adr/0031). Images cannot: they carry no URLs.
   */
  #allowNamedHttp(repoBlobUrl: string | undefined): void {
    if (
      repoBlobUrl === undefined ||
      !repoBlobUrl.toLowerCase().startsWith('http://') ||
      !URL.canParse(repoBlobUrl)
    )
      return;
    const { host } = new URL(repoBlobUrl);
    if (this.client.schemeOf(host) === 'http') return;
    this.#log.warn({ host }, 'plain HTTP: the image configuration names this registry insecure');
    this.client.allowPlainHttp(host);
  }

  /** What is being opened cannot be stopped at once: it is let go, and closed when it is there. */
  async #unlessAborted(opening: Promise<OpenedImage>, signal: AbortSignal | undefined): Promise<OpenedImage> {
    if (signal === undefined) return opening;
    let stop: (() => void) | undefined;
    const aborted = new Promise<never>((_, reject) => {
      stop = () => {
        reject(abortedError('open image', signal));
      };
      if (signal.aborted) stop();
      else signal.addEventListener('abort', stop);
    });
    try {
      return await Promise.race([aborted, opening]);
    } catch (error) {
      const dropped = opening.then((image) => image.close()).catch(() => undefined);
      this.#dropped.add(dropped);
      void dropped.then(() => this.#dropped.delete(dropped));
      throw error;
    } finally {
      if (stop !== undefined) signal.removeEventListener('abort', stop);
    }
  }

  /** Ends by itself when the image is closed. */
  async #download(config: ImageConfig, image: OpenedImage): Promise<Download | undefined> {
    const keys = config.download ?? this.#config.download;
    if (!keys.enable || (await isRecording(config))) return undefined;
    const { type } = cacheOptions(this.#config.cacheConfig, this.#log);
    const layers = image.lowers.flatMap(({ source, stored }) =>
      source.kind === 'remote' && source.dir !== '' && stored instanceof CachedBlob
        ? [{ blob: stored, digest: source.digest, dir: source.dir, type }]
        : [],
    );
    return layers.length === 0 ? undefined : new Download(layers, keys, this.#log);
  }

  #compaction({ blob, readOnly }: OpenedImage): BackgroundCompaction | undefined {
    const keys = this.#config.compactionConfig;
    if (!keys.enable || readOnly || !(blob instanceof WritableLayerStack)) return undefined;
    const { upper } = blob;
    if (!(upper instanceof AppendLayer)) return undefined;
    const layer: Compactable = {
      get usage() {
        return upper.usage;
      },
      onceChanged: (tell) => {
        upper.changes.once(tell);
      },
      compact: (options) => blob.compact(options, this.#quiesce),
    };
    return new BackgroundCompaction(layer, keys, this.#log.child({ layer: upper.name }));
  }

  async #openRemote(
    request: RemoteRequest,
    fetches: FetchRecord,
    unitSize: number | undefined,
  ): Promise<ReadableBlob> {
    const { url, digest, dir } = request;
    const size = request.size > 0 ? request.size : undefined;
    this.#cache ??= this.#openCache('registry', this.#config.cacheConfig);
    const { type } = cacheOptions(this.#config.cacheConfig, this.#log);
    return openCachedRemote(await this.#cache, {
      url,
      digest,
      size,
      dir,
      type,
      unitSize,
      source: async () =>
        fetches.watch(
          this.traffic.watch(await this.client.openBlob(url, size === undefined ? {} : { size })),
          digest,
        ),
    });
  }

  /**
   * In a cache of its own, if it is enabled; else in that of the registry, within its bound: the plain bytes are what is
   * read, again and again. Without a usable cache there is only what GzipBlob keeps in memory.
   */
  async #cacheGzip(plain: ReadableBlob, target: LayerSource): Promise<ReadableBlob> {
    const { gzipCacheConfig, cacheConfig } = this.#config;
    const { size } = plain;
    try {
      if (gzipCacheConfig.enable)
        this.#gzipCache ??= this.#openCache('gzip', { ...gzipCacheConfig, cacheType: 'file' });
      else this.#cache ??= this.#openCache('registry', cacheConfig);
      const cache = await (gzipCacheConfig.enable ? this.#gzipCache : this.#cache);
      if (cache === undefined) return plain;
      if (target.kind === 'remote' && gzipCacheConfig.enable) {
        const { digest } = target;
        return await cache.openBlob({ digest, url: digest, size, source: plain, digestNamesBytes: false });
      }
      // Beside blobs of registries the digest names other bytes; and what a local file holds, nobody has checked.
      const url = target.kind === 'remote' ? `gzip:${target.digest}` : await fileKey(target.path);
      return await cache.openBlob({ url, size, source: plain });
    } catch (error) {
      this.#log.warn(
        { err: error, target: sourceName(target) },
        'plain bytes of a gzip target are not cached',
      );
      return plain;
    }
  }

  async #openCache(name: 'registry' | 'gzip', keys: CacheConfigKeys): Promise<BlobCache> {
    const cache = await BlobCache.open(cacheOptions(keys, this.#log).options);
    if (this.#quiesce !== undefined) cache.setQuiesce(this.#quiesce);
    this.#openCaches.set(name, cache);
    return cache;
  }

  /** Makes the caches durable and leaves the network. The owner has closed the images. Idempotent. */
  async close(): Promise<void> {
    const results = await Promise.allSettled([this.#client?.close()]);
    await Promise.all(this.#dropped);
    results.push(
      ...(await Promise.allSettled([
        this.#cache?.then((cache) => cache.close()),
        this.#gzipCache?.then((cache) => cache.close()),
      ])),
    );
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }
}

/** Names the bytes that a local file has now. */
async function fileKey(path: string): Promise<string> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
  return `gzip:file:${[dev, ino, size, mtimeNs, ctimeNs].join(':')}`;
}

/** A trace is recorded into an empty file, and shows what a container reads only while nobody else does. */
async function isRecording({ recordTracePath }: ImageConfig): Promise<boolean> {
  if (recordTracePath === '') return false;
  const { size } = await stat(recordTracePath).catch(() => ({ size: undefined }));
  return size === 0;
}

function presentBytes(blob: ReadableBlob): number {
  return 'presentBytes' in blob && typeof blob.presentBytes === 'number' ? blob.presentBytes : 0;
}
