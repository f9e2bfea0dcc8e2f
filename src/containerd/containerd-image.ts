/** `containerd:NAME`: an image of containerd's store, to read and to write. */
import type { Readable } from 'node:stream';
import { checkRange, ContainerdError, type ReadableBlob, type ReadOptions } from '../blob/index.js';
import {
  digestOf,
  MAX_MANIFEST_SIZE,
  parseDocument,
  verifiedStream,
  readSmallBlob,
  type Descriptor,
  type ImageDocument,
  type ImageSource,
  type ImageTarget,
  type PushBlobOptions,
  type PushOutcome,
} from '../oci/index.js';
import { formatReference, parseReference } from '../registryblob/index.js';
import { ContainerdClient } from './client.js';
import { bytesOf, type ContentName } from './content.js';
import { childLabels } from './gc-labels.js';
import { isContainerdError, type ContainerdPlace } from './names.js';

/** Longest name of an image: what its record's key may be. */
const MAX_NAME = 4096;

/**
 * Both ends of `containerd:`. Connects when it is first used. What is written is kept by a lease until the name leads to
 * it; {@link close} ends the lease, so that nothing remains of what was never finished.
 */
export class ContainerdImage implements ImageSource, ImageTarget {
  readonly name: string;
  readonly repository = undefined;
  readonly #image: string;
  readonly #place: ContainerdPlace;
  #connecting: Promise<ContainerdClient> | undefined;
  #leasing: Promise<string> | undefined;

  /** @param image as containerd has it: a whole reference, `registry.example/app:1`. */
  constructor(image: string, place: ContainerdPlace = {}) {
    this.#image = image;
    this.#place = place;
    this.name = `containerd:${image}`;
  }

  async resolve(options: ReadOptions = {}): Promise<ImageDocument> {
    const client = await this.#client();
    const names = [this.#image, ...otherNames(this.#image)];
    for (const name of names) {
      const record = await client.image(name, options);
      if (record === undefined) continue;
      const { mediaType, digest, size } = record.target;
      return this.document({ mediaType, digest, size }, options);
    }
    throw new ContainerdError(
      'OBD_CONTAINERD_NOT_FOUND',
      `Cannot find image "${this.#image}" in namespace "${client.namespace}" of containerd at "${client.address}"`,
      {
        source: this.name,
        hint: `"ctr -n ${client.namespace} image ls" shows what there is; --namespace chooses another`,
      },
    );
  }

  async document(descriptor: Descriptor, options: ReadOptions = {}): Promise<ImageDocument> {
    const bytes = await this.readBlob(descriptor, { ...options, maxSize: MAX_MANIFEST_SIZE });
    return parseDocument(bytes, descriptor.mediaType, `${this.name}@${descriptor.digest}`, descriptor);
  }

  readBlob(
    descriptor: Descriptor,
    options: ReadOptions & { readonly maxSize?: number } = {},
  ): Promise<Uint8Array> {
    return readSmallBlob(this, descriptor, options);
  }

  async streamBlob(descriptor: Descriptor, options: ReadOptions = {}): Promise<Readable> {
    const client = await this.#withBlob(descriptor, options);
    const { digest, size } = descriptor;
    return verifiedStream(
      descriptor,
      this.name,
      (signal) => client.content.read(digest, 0, size, { signal }),
      options,
    );
  }

  async openBlob(descriptor: Descriptor, options: ReadOptions = {}): Promise<ReadableBlob> {
    return new ContentBlob(await this.#withBlob(descriptor, options), descriptor);
  }

  async check(): Promise<void> {
    await this.#client();
  }

  async hasBlob(descriptor: Descriptor, options: ReadOptions = {}): Promise<boolean> {
    const client = await this.#client();
    if ((await client.content.info(descriptor.digest, options)) === undefined) return false;
    try {
      await client.addToLease(await this.#lease(), { type: 'content', id: descriptor.digest }, options);
      return true;
    } catch (error) {
      if (isContainerdError(error, 'OBD_CONTAINERD_NOT_FOUND')) return false; // collected just now
      throw error;
    }
  }

  async pushBlob(
    descriptor: ContentName,
    content: ReadableBlob,
    options: PushBlobOptions = {},
  ): Promise<PushOutcome> {
    if (content.size !== descriptor.size)
      throw new RangeError(
        `Blob "${content.name}" has ${content.size} bytes, its descriptor says ${descriptor.size}`,
      );
    let before: number | undefined;
    const outcome = await (
      await this.#client()
    ).content.write(
      {
        ref: `blob-${descriptor.digest}`,
        content: descriptor,
        labels: {},
        read: bytesOf(content),
        onProgress: (done) => {
          if (before !== undefined && done > before) options.onProgress?.(done - before);
          before = done;
        },
      },
      { signal: options.signal, lease: await this.#lease() },
    );
    return outcome === 'written' ? 'pushed' : 'exists';
  }

  async pushManifest(bytes: Uint8Array, mediaType: string, options: ReadOptions = {}): Promise<Descriptor> {
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
    const document = parseDocument(bytes, mediaType, `${this.name}@${descriptor.digest}`);
    const client = await this.#client();
    await client.content.write(
      {
        ref: `${document.kind}-${descriptor.digest}`,
        content: descriptor,
        labels: childLabels(document),
        read: async function* (offset) {
          yield bytes.subarray(offset);
        },
      },
      { signal: options.signal, lease: await this.#lease() },
    );
    return descriptor;
  }

  async tag(descriptor: Descriptor, options: ReadOptions = {}): Promise<void> {
    const { mediaType, digest, size } = descriptor;
    const target = { mediaType, digest, size, annotations: {} };
    await (await this.#client()).putImage({ name: this.#image, target }, options);
  }

  async close(): Promise<void> {
    const connecting = this.#connecting;
    const leasing = this.#leasing;
    this.#connecting = undefined;
    this.#leasing = undefined;
    const client = await connecting?.catch(() => undefined);
    const lease = await leasing?.catch(() => undefined);
    // One that cannot be deleted now ends by itself.
    if (lease !== undefined) await client?.deleteLease(lease).catch(() => undefined);
    client?.close();
  }

  #client(): Promise<ContainerdClient> {
    if (this.#image === '' || this.#image.length > MAX_NAME)
      throw new ContainerdError(
        'OBD_CONTAINERD_REFUSED',
        `Cannot use image name "${this.name.slice(0, 300)}"`,
        {
          hint: 'Write containerd:NAME with the whole name, as "ctr image ls" shows it',
        },
      );
    this.#connecting ??= ContainerdClient.connect(this.#place);
    return this.#connecting;
  }

  #lease(): Promise<string> {
    this.#leasing ??= this.#client().then((client) => client.createLease());
    return this.#leasing;
  }

  async #withBlob(descriptor: Descriptor, options: ReadOptions): Promise<ContainerdClient> {
    const client = await this.#client();
    const info = await client.content.info(descriptor.digest, options);
    if (info === undefined)
      throw new ContainerdError(
        'OBD_CONTAINERD_NOT_FOUND',
        `Cannot read "${descriptor.digest}" of "${this.name}": containerd does not have it`,
        {
          source: this.name,
          hint: 'The image was pulled lazily, or for another platform; "obd pull" and "ctr image pull --all-platforms" fetch all',
        },
      );
    if (info.size === descriptor.size) return client;
    throw new ContainerdError(
      'OBD_CONTAINERD_REFUSED',
      `Cannot use "${descriptor.digest}" of "${this.name}": it has ${info.size} bytes, expected ${descriptor.size}`,
      { source: this.name, expected: descriptor.size, actual: info.size },
    );
  }
}

/** `debian:12` is `docker.io/library/debian:12` to nerdctl and CRI. */
function otherNames(name: string): string[] {
  try {
    const whole = formatReference(parseReference(name));
    return whole === name ? [] : [whole];
  } catch {
    return []; // containerd takes any name
  }
}

/** Content for reading at any offset; each read is a call. */
class ContentBlob implements ReadableBlob {
  readonly name: string;
  readonly size: number;
  readonly #client: ContainerdClient;
  readonly #reads = new Set<Promise<void>>();

  constructor(client: ContainerdClient, descriptor: ContentName) {
    this.name = descriptor.digest;
    this.size = descriptor.size;
    this.#client = client;
  }

  async read(offset: number, into: Uint8Array, options: ReadOptions = {}): Promise<void> {
    checkRange(this, offset, into.byteLength);
    const work = (async () => {
      let at = 0;
      for await (const piece of this.#client.content.read(this.name, offset, into.byteLength, options)) {
        into.set(piece, at);
        at += piece.byteLength;
      }
    })();
    this.#reads.add(work);
    try {
      await work;
    } finally {
      this.#reads.delete(work);
    }
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#reads);
  }
}
