/**
 * The layers of one image, bottom first. Each blob is fetched and unpacked while it is applied to one ext4 image; what it
 * changed becomes the new layer; that is pushed while the next one is applied, and the two after that are fetched.
 *
 *   fetch   |--1--|--2--|--3--|--4--|
 *   apply         |--1--|--2--|--3--|--4--|
 *   push                |--1--|--2--|--3--|--4--|
 *
 * Layers that an earlier conversion made and the target still has are not written again. Those below a layer that has to
 * be made are applied all the same: it is the difference to them. Those above are not even fetched.
 */
import { Codec, Ext4Image, StreamDigest } from '../native/index.js';
import { applyLayer, unpackLayer, type LayerCounts, type LayerPacking } from '../ocilayer/index.js';
import { readTar } from '../tar/index.js';
import type { Descriptor, ImageSource, ImageTarget } from '../oci/index.js';
import { chainIds, layerUuid } from './chain.js';
import type { CachedLayer, LayerIdentity } from './layer-cache.js';
import { LayerFetcher } from './layer-fetcher.js';
import { layerDescriptor } from './new-manifest.js';
import { sumSizes, type ConvertedLayer, type ConvertOptions, type MediaFamily } from './options.js';
import { badImage, type SourceImage } from './source-image.js';
import { writeLayer, type LayerFile, type WriteLayerOptions } from './write-layer.js';

/** Pushes under way while the next layer is applied; each holds a work file. */
const MAX_PUSHES = 2;

/** Layers that the target is asked for at the same time. */
export const QUESTIONS = 8;
/** What the reference compresses with, unless told otherwise. */
const DEFAULT_BLOCK = 4096;

/** Everything that the bytes of an image's layers depend on, bottom first. */
export function layerIdentities(
  diffIds: readonly string[],
  virtualSize: number,
  zfile: ConvertOptions['zfile'],
): LayerIdentity[] {
  const codec = zfile?.codec ?? Codec.LZ4;
  const blockSize = zfile?.blockSize ?? DEFAULT_BLOCK;
  return chainIds(diffIds).map((chainId) => ({ chainId, fsType: 'ext4', virtualSize, codec, blockSize }));
}

/** `host/repository` of a target in a registry. */
export function placeOf(target: Pick<ImageTarget, 'place'>): string | undefined {
  return target.place === undefined ? undefined : `${target.place.host}/${target.place.repository}`;
}

/** Repositories of the target's registry that got a blob, as names within it; the target's own left out. */
export function mountableFrom(target: Pick<ImageTarget, 'place'>, known: CachedLayer): string[] {
  const { place } = target;
  if (place === undefined) return [];
  const prefix = `${place.host}/`;
  return known.places
    .filter((other) => other.startsWith(prefix))
    .map((other) => other.slice(prefix.length))
    .filter((repository) => repository !== place.repository);
}

/** Converts the layers of one image, each on top of those before. */
export class LayerConversion {
  readonly #source: ImageSource;
  readonly #target: ImageTarget;
  readonly #family: MediaFamily;
  readonly #image: SourceImage;
  readonly #virtualSize: number;
  readonly #uuids: readonly string[];
  readonly #identities: readonly LayerIdentity[];
  readonly #options: ConvertOptions;
  readonly #pushes = new Set<Promise<void>>();
  readonly #layers: ConvertedLayer[] = [];
  /** Ends everything under way, by the caller's wish or after a failure. */
  readonly #controller = new AbortController();
  readonly #signal: AbortSignal;
  #failure: { readonly error: unknown } | undefined;

  constructor(
    source: ImageSource,
    target: ImageTarget,
    image: SourceImage,
    family: MediaFamily,
    options: ConvertOptions & { readonly virtualSize: number },
  ) {
    this.#source = source;
    this.#target = target;
    this.#family = family;
    this.#image = image;
    this.#virtualSize = options.virtualSize;
    this.#uuids = chainIds(image.diffIds).map(layerUuid);
    this.#identities = layerIdentities(image.diffIds, options.virtualSize, options.zfile);
    this.#options = options;
    const own = this.#controller.signal;
    this.#signal = options.signal === undefined ? own : AbortSignal.any([options.signal, own]);
  }

  async run(): Promise<readonly ConvertedLayer[]> {
    const reused = await this.#reuse();
    const last = this.#image.manifest.layers.findLastIndex((_, index) => !reused.has(index));
    if (last >= 0) await this.#convert(this.#image.manifest.layers.slice(0, last + 1), reused);
    return this.#layers.sort((a, b) => a.index - b.index);
  }

  /** Finds the layers that need not be made: their indexes. */
  async #reuse(): Promise<ReadonlySet<number>> {
    const reused = new Set<number>();
    const layers = [...this.#image.manifest.layers.entries()];
    for (let at = 0; at < layers.length; at += QUESTIONS)
      await Promise.all(
        layers.slice(at, at + QUESTIONS).map(async ([index, source]) => {
          if (await this.#reuseLayer(index, source)) reused.add(index);
        }),
      );
    return reused;
  }

  async #reuseLayer(index: number, source: Descriptor): Promise<boolean> {
    const identity = this.#identities[index];
    const known = identity && this.#options.cache?.find(identity);
    if (identity === undefined || known === undefined) return false;
    const outcome = await this.#present(known);
    if (outcome === undefined) return false;
    this.#options.cache?.note(identity, known, placeOf(this.#target));
    this.#report({ index, source, outcome, reused: true, ...known });
    return true;
  }

  /** How a blob that was pushed before is at the target; undefined if it is not. */
  async #present(known: CachedLayer): Promise<'exists' | 'mounted' | undefined> {
    const options = { signal: this.#signal };
    const descriptor = layerDescriptor(known, this.#family);
    if (await this.#target.hasBlob(descriptor, options)) return 'exists';
    for (const from of mountableFrom(this.#target, known))
      if ((await this.#target.mountBlob?.(descriptor, from, options)) === true) return 'mounted';
    return undefined;
  }

  async #convert(layers: readonly Descriptor[], reused: ReadonlySet<number>): Promise<void> {
    const { workDir } = this.#options;
    const total = sumSizes(layers);
    let before = 0;
    const image = await Ext4Image.format(workDir, this.#virtualSize);
    const fetcher = new LayerFetcher(this.#source, layers, workDir, this.#signal);
    try {
      for (const [index, layer] of layers.entries()) {
        // The empty file system itself is part of the bottom layer.
        if (index > 0) image.nextLayer();
        const start = before;
        const apply = (): Promise<LayerCounts> =>
          this.#apply(image, fetcher.open(index), layer, index, (done) => {
            this.#options.onProgress?.(start + done, total);
            this.#options.onEvent?.({
              event: 'progress',
              manifest: this.#image.descriptor.digest,
              layer: index,
              done,
              size: layer.size,
            });
          });
        before += layer.size;
        if (reused.has(index)) {
          await apply();
          await image.flush();
          continue;
        }
        const { file, result: counts } = await writeLayer(image, this.#layerOptions(index), apply);
        while (this.#pushes.size >= MAX_PUSHES) await Promise.race(this.#pushes);
        this.#startPush(index, layer, counts, file);
      }
      // A failed push has ended whatever ran beside it; its own error is the one to tell.
    } catch (error) {
      this.#fail(error);
    } finally {
      await Promise.all(this.#pushes);
      await fetcher.close();
      image.close();
    }
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#controller.abort();
  }

  async #apply(
    image: Ext4Image,
    blob: AsyncIterable<Uint8Array>,
    layer: Descriptor,
    index: number,
    onRead: (done: number) => void,
  ): Promise<LayerCounts> {
    const { warn } = this.#options;
    const signal = this.#signal;
    const name = `${this.#source.name}@${layer.digest}`;
    const diffId = this.#image.diffIds[index] ?? '';
    const hash = new StreamDigest(diffId.startsWith('sha512:') ? 'sha512' : 'sha256');
    async function* counted(): AsyncGenerator<Uint8Array, void, undefined> {
      let done = 0;
      for await (const chunk of blob) {
        done += chunk.byteLength;
        onRead(done);
        yield chunk;
      }
    }
    // The digest of a plain tar is that of its blob, which the stream checks.
    let packing: LayerPacking | undefined;
    const isKnown = (): boolean => packing === 'plain' && diffId === layer.digest;
    const onPacking = (found: LayerPacking): void => {
      packing = found;
    };
    async function* hashed(): AsyncGenerator<Uint8Array, void, undefined> {
      for await (const chunk of unpackLayer(counted(), name, onPacking)) {
        if (!isKnown()) await hash.update(chunk);
        yield chunk;
      }
    }
    const counts = await applyLayer(image, readTar(hashed(), name), { signal, ...(warn && { warn }) });
    if (isKnown()) return counts;
    const actual = await hash.end();
    if (!diffId.endsWith(`:${actual}`))
      throw badImage(
        name,
        `its content is not what the image's configuration says: expected ${diffId}, found ${actual}`,
      );
    return counts;
  }

  #layerOptions(index: number): WriteLayerOptions {
    return {
      workDir: this.#options.workDir,
      ...(this.#options.zfile && { zfile: this.#options.zfile }),
      uuid: this.#uuids[index] ?? null,
      parentUuid: this.#uuids[index - 1] ?? null,
      signal: this.#signal,
    };
  }

  /** Pushes beside the next layer's work. A failure is kept and ends the conversion at the next layer. */
  #startPush(index: number, source: Descriptor, counts: LayerCounts, file: Promise<LayerFile>): void {
    const push = this.#push(index, source, counts, file)
      .catch((error: unknown) => {
        this.#fail(error);
      })
      .finally(() => {
        this.#pushes.delete(push);
      });
    this.#pushes.add(push);
  }

  async #push(
    index: number,
    source: Descriptor,
    counts: LayerCounts,
    made: Promise<LayerFile>,
  ): Promise<void> {
    const file = await made;
    try {
      const outcome = await this.#target.pushBlob(file, file.blob, { signal: this.#signal, verified: true });
      const { digest, size, dataSize } = file;
      const identity = this.#identities[index];
      if (identity !== undefined)
        this.#options.cache?.note(identity, { digest, size, dataSize, counts }, placeOf(this.#target));
      this.#report({ index, source, outcome, reused: false, digest, size, dataSize, counts });
    } finally {
      await file.blob.close();
    }
  }

  #report(
    layer: Pick<ConvertedLayer, 'index' | 'source' | 'outcome' | 'reused'> & Omit<CachedLayer, 'places'>,
  ): void {
    const { index, source, outcome, reused, digest, size, dataSize, counts } = layer;
    this.#layers.push({
      index,
      source,
      descriptor: layerDescriptor({ digest, size }, this.#family),
      uuid: this.#uuids[index] ?? '',
      dataSize,
      outcome,
      reused,
      counts,
    });
    const manifest = this.#image.descriptor.digest;
    this.#options.onEvent?.({ event: 'layer', manifest, layer: index, digest, size, outcome, reused });
  }
}
