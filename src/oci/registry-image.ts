/** `docker://`: an image in a registry, to read and to write. Uploads are in blob-upload.ts. */
import type { Readable } from 'node:stream';
import { ConfigError, RegistryError, type ReadableBlob, type ReadOptions } from '../blob/index.js';
import {
  blobUrl,
  discardBody,
  formatReference,
  readBody,
  type HttpResponse,
  type ImageReference,
  type RegistryBlob,
  type RegistryClient,
} from '../registryblob/index.js';
import { mountBlob, uploadBlob } from './blob-upload.js';
import { digestOf, verifiedStream, verifyBytes } from './digest.js';
import { parseDocument } from './document.js';
import type {
  ImageDocument,
  ImageSource,
  ImageTarget,
  PushBlobOptions,
  PushOutcome,
  RegistryPlace,
} from './image-store.js';
import { addReferrer, subjectOf } from './referrers.js';
import { MAX_MANIFEST_SIZE, MediaType, type Descriptor } from './manifest.js';
import { readSmallBlob } from './read-blob.js';

const ACCEPT = [
  MediaType.OCI_INDEX,
  MediaType.DOCKER_INDEX,
  MediaType.OCI_MANIFEST,
  MediaType.DOCKER_MANIFEST,
].join(', ');

/** A registry takes its time to store a large index. */
const PUT_ANSWER_MS = 120_000;

/** Both ends of `docker://`. The client is the caller's. */
export class RegistryImage implements ImageSource, ImageTarget {
  readonly name: string;
  readonly repository: string;
  readonly place: RegistryPlace;
  readonly reference: ImageReference;
  readonly #client: RegistryClient;
  readonly #base: string;
  /** The last manifest pushed, so that tagging it does not fetch it. */
  #pushed: { readonly descriptor: Descriptor; readonly bytes: Uint8Array } | undefined;

  constructor(client: RegistryClient, reference: ImageReference) {
    this.#client = client;
    this.reference = reference;
    this.repository = reference.repository;
    this.place = { host: reference.host, repository: reference.repository };
    this.name = `docker://${formatReference(reference)}`;
    this.#base = `${client.schemeOf(reference.host)}://${reference.host}/v2/${reference.repository}`;
  }

  async resolve(options: ReadOptions = {}): Promise<ImageDocument> {
    const { digest, tag } = this.reference;
    return this.#manifest(digest ?? tag ?? 'latest', undefined, options);
  }

  async document(descriptor: Descriptor, options: ReadOptions = {}): Promise<ImageDocument> {
    return this.#manifest(descriptor.digest, descriptor, options);
  }

  readBlob(
    descriptor: Descriptor,
    options: ReadOptions & { readonly maxSize?: number } = {},
  ): Promise<Uint8Array> {
    return readSmallBlob(this, descriptor, options);
  }

  async streamBlob(descriptor: Descriptor, options: ReadOptions = {}): Promise<Readable> {
    const blob = await this.openBlob(descriptor, options);
    return verifiedStream(descriptor, this.name, (signal) => blob.stream(0, { signal }), options);
  }

  async openBlob(descriptor: Descriptor, options: ReadOptions = {}): Promise<RegistryBlob> {
    const { host } = this.reference;
    const url = blobUrl(this.#client.schemeOf(host), host, this.repository, descriptor.digest);
    return this.#client.openBlob(url, { size: descriptor.size, signal: options.signal });
  }

  async hasBlob(descriptor: Descriptor, options: ReadOptions = {}): Promise<boolean> {
    return this.#head(descriptor, options);
  }

  async pushBlob(
    descriptor: Pick<Descriptor, 'digest' | 'size'>,
    content: ReadableBlob,
    options: PushBlobOptions = {},
  ): Promise<PushOutcome> {
    if (content.size !== descriptor.size)
      throw new RangeError(
        `Blob "${content.name}" has ${content.size} bytes, its descriptor says ${descriptor.size}`,
      );
    if (await this.#head(descriptor, options)) return 'exists';
    return uploadBlob(this.#client, {
      base: this.#base,
      repository: this.repository,
      descriptor,
      content,
      ...options,
    });
  }

  async mountBlob(
    descriptor: Pick<Descriptor, 'digest' | 'size'>,
    from: string,
    options: ReadOptions = {},
  ): Promise<boolean> {
    const { repository } = this;
    return mountBlob(this.#client, { base: this.#base, repository, descriptor, ...options }, from);
  }

  async pushManifest(bytes: Uint8Array, mediaType: string, options: ReadOptions = {}): Promise<Descriptor> {
    if (bytes.byteLength > MAX_MANIFEST_SIZE)
      throw new RegistryError(
        'OBD_REGISTRY_RESPONSE',
        `Cannot push a manifest of ${bytes.byteLength} bytes: registries take ${MAX_MANIFEST_SIZE}`,
      );
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
    const response = await this.#put(descriptor.digest, bytes, mediaType, options);
    const subject = subjectOf(bytes);
    if (subject !== undefined && response.header('oci-subject') === undefined)
      await this.#addReferrer(subject, bytes, descriptor, options);
    this.#pushed = { descriptor, bytes };
    return descriptor;
  }

  /** For a registry without the referrers API: an index under a tag made of the subject's digest says who refers to it. */
  async #addReferrer(
    subject: string,
    bytes: Uint8Array,
    descriptor: Descriptor,
    options: ReadOptions,
  ): Promise<void> {
    const tag = subject.replace(':', '-');
    let before: ImageDocument | undefined;
    try {
      before = await this.#manifest(tag, undefined, options);
    } catch (error) {
      if (!(error instanceof RegistryError) || error.code !== 'OBD_REGISTRY_NOT_FOUND') throw error;
    }
    const index = addReferrer(before?.kind === 'index' ? before.index : undefined, bytes, descriptor);
    if (index !== undefined) await this.#put(tag, index, MediaType.OCI_INDEX, options);
  }

  async tag(descriptor: Descriptor, options: ReadOptions = {}): Promise<void> {
    const { tag, digest } = this.reference;
    if (tag === undefined) {
      if (digest === descriptor.digest) return;
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot write to "${this.name}": the result has digest ${descriptor.digest}`,
        {
          source: this.name,
          hint: 'Name a tag to write to, host/repository:tag',
        },
      );
    }
    const pushed = this.#pushed?.descriptor.digest === descriptor.digest ? this.#pushed.bytes : undefined;
    const bytes = pushed ?? (await this.document(descriptor, options)).bytes;
    await this.#put(tag, bytes, descriptor.mediaType, options);
  }

  async close(): Promise<void> {
    this.#pushed = undefined;
  }

  async #head(descriptor: Pick<Descriptor, 'digest'>, options: ReadOptions): Promise<boolean> {
    const response = await this.#client.request(
      {
        method: 'HEAD',
        url: `${this.#base}/blobs/${descriptor.digest}`,
        repository: this.repository,
        actions: 'pull,push',
        action: 'look for blob',
        signal: options.signal,
      },
      [200, 404],
    );
    await discardBody(response);
    return response.status === 200;
  }

  async #put(
    name: string,
    bytes: Uint8Array,
    mediaType: string,
    options: ReadOptions,
  ): Promise<HttpResponse> {
    const response = await this.#client.request(
      {
        method: 'PUT',
        url: `${this.#base}/manifests/${name}`,
        headers: { 'content-type': mediaType },
        body: bytes,
        repository: this.repository,
        actions: 'pull,push',
        action: 'push manifest',
        signal: options.signal,
        answerMs: PUT_ANSWER_MS,
        timeoutMs: PUT_ANSWER_MS,
      },
      [200, 201, 202],
    );
    await discardBody(response);
    return response;
  }

  async #manifest(name: string, known: Descriptor | undefined, options: ReadOptions): Promise<ImageDocument> {
    const url = `${this.#base}/manifests/${name}`;
    const source = name.includes(':')
      ? `docker://${this.reference.registry}/${this.repository}@${name}`
      : this.name;
    if (known !== undefined && known.size > MAX_MANIFEST_SIZE) throw tooLarge(source);
    const response = await this.#client.request(
      {
        method: 'GET',
        url,
        headers: { accept: ACCEPT, 'accept-encoding': 'identity' },
        repository: this.repository,
        action: 'read manifest',
        signal: options.signal,
      },
      [200],
    );
    const bytes = await readBody(response, MAX_MANIFEST_SIZE, () => tooLarge(source));
    if (known !== undefined) verifyBytes(bytes, known, source);
    else if (name.includes(':')) verifyBytes(bytes, { digest: name, size: bytes.byteLength }, source);
    else {
      const said = response.header('docker-content-digest');
      if (said?.startsWith('sha256:') === true && said !== digestOf(bytes))
        throw new RegistryError(
          'OBD_REGISTRY_DIGEST',
          `Cannot use "${source}": its digest is ${digestOf(bytes)}, the registry says ${said}`,
          {
            source,
            expected: said,
            actual: digestOf(bytes),
          },
        );
    }
    return parseDocument(bytes, response.header('content-type'), source, known);
  }
}

function tooLarge(source: string): RegistryError {
  return new RegistryError(
    'OBD_REGISTRY_RESPONSE',
    `Cannot read manifest "${source}": larger than ${MAX_MANIFEST_SIZE} bytes`,
    {
      source,
    },
  );
}
