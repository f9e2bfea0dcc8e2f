/**
 * `oci:DIRECTORY[:tag]`: an OCI image layout (image specification, "image-layout"), to read and to write.
 *
 *   oci-layout   index.json   blobs/sha256/<hex>
 *
 * A file gets its name when it is complete, checked and on disk; index.json is replaced as a whole. Within a process
 * changes of one layout's index follow each other; two processes must not write one layout at the same time.
 */
import { randomBytes } from 'node:crypto';
import { open, readFile, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import {
  abortedError,
  ConfigError,
  FileBlob,
  IoError,
  ioError,
  isSystemError,
  localFileOf,
  RegistryError,
  type ReadableBlob,
  type ReadOptions,
  makeDirectory,
} from '../blob/index.js';
import { copyFileRange, StreamDigest } from '../native/index.js';
import { digestOf } from './digest.js';
import type { ImageDocument, ImageTarget, PushBlobOptions, PushOutcome } from './image-store.js';
import { MAX_MANIFEST_SIZE, MediaType, parseIndex, type Descriptor, type Index } from './manifest.js';
import { checkSize, chooseEntry, REF_NAME, StoredImage } from './stored-image.js';

const BLOCK = 1024 * 1024;
/** Copied by the kernel in one go; between two the push can be stopped. */
const LOCAL_STEP = 32 * 1024 * 1024;

/** Changes of index.json under way in this process, by directory. Entries go when the chain ends. */
const indexChanges = new Map<string, Promise<void>>();

/** Both ends of `oci:`. Holds nothing open. */
export class LayoutImage extends StoredImage implements ImageTarget {
  readonly name: string;
  readonly repository = undefined;
  readonly directory: string;
  readonly #tag: string | undefined;

  constructor(directory: string, tag: string | undefined) {
    super();
    this.directory = resolve(directory);
    this.#tag = tag;
    this.name = `oci:${directory}${tag === undefined ? '' : `:${tag}`}`;
  }

  async resolve(options: ReadOptions = {}): Promise<ImageDocument> {
    const entry = chooseEntry(await this.#index(), this.#tag, this.name, 'oci:DIRECTORY:TAG');
    return this.document(entry, options);
  }

  async openBlob(descriptor: Descriptor): Promise<ReadableBlob> {
    let blob: FileBlob;
    try {
      blob = await FileBlob.open(this.#blobPath(descriptor.digest));
    } catch (error) {
      if (error instanceof IoError && error.code === 'OBD_IO_NOT_FOUND')
        throw new RegistryError(
          'OBD_REGISTRY_NOT_FOUND',
          `Cannot find blob "${descriptor.digest}" in "${this.name}"`,
          {
            source: this.name,
            cause: error,
          },
        );
      throw error;
    }
    return checkSize(blob, descriptor, this.name);
  }

  async hasBlob(descriptor: Pick<Descriptor, 'digest' | 'size'>): Promise<boolean> {
    try {
      return (await stat(this.#blobPath(descriptor.digest))).size === descriptor.size;
    } catch (error) {
      if (isSystemError(error) && error.code === 'ENOENT') return false;
      throw ioError(error, 'look for blob', this.name);
    }
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
    if (await this.hasBlob(descriptor)) return 'exists';
    await this.#create();
    await writeAtomically(this.#blobPath(descriptor.digest), async (file) => {
      const actual = await copyAndHash(content, file, descriptor.digest, options);
      if (actual !== undefined && !descriptor.digest.endsWith(`:${actual}`))
        throw new RegistryError(
          'OBD_REGISTRY_DIGEST',
          `Cannot store "${descriptor.digest}": the content's digest is ${actual}`,
          {
            source: content.name,
          },
        );
    });
    return 'pushed';
  }

  async pushManifest(bytes: Uint8Array, mediaType: string): Promise<Descriptor> {
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
    if (!(await this.hasBlob(descriptor))) {
      await this.#create();
      await writeAtomically(this.#blobPath(descriptor.digest), (file) => file.writeFile(bytes));
    }
    return descriptor;
  }

  async tag(descriptor: Descriptor): Promise<void> {
    await this.#create();
    const before = indexChanges.get(this.directory) ?? Promise.resolve();
    const change = before.catch(() => undefined).then(() => this.#changeIndex(descriptor));
    indexChanges.set(this.directory, change);
    try {
      await change;
    } finally {
      if (indexChanges.get(this.directory) === change) indexChanges.delete(this.directory);
    }
  }

  async close(): Promise<void> {
    // Nothing is held open.
  }

  async #changeIndex(descriptor: Descriptor): Promise<void> {
    const old = await this.#index(true);
    const tag = this.#tag;
    const kept = old.manifests.filter((entry) =>
      tag === undefined
        ? entry.digest !== descriptor.digest || entry.annotations?.[REF_NAME] !== undefined
        : entry.annotations?.[REF_NAME] !== tag,
    );
    const { mediaType, digest, size, platform } = descriptor;
    const entry: Descriptor = {
      mediaType,
      digest,
      size,
      ...(tag === undefined ? {} : { annotations: { [REF_NAME]: tag } }),
      ...(platform === undefined ? {} : { platform }),
    };
    const index: Index = { ...old, manifests: [...kept, entry] };
    await writeAtomically(join(this.directory, 'index.json'), (file) =>
      file.writeFile(JSON.stringify(index)),
    );
  }

  /** @param orEmpty a missing index.json is an empty one. */
  async #index(orEmpty = false): Promise<Index> {
    const path = join(this.directory, 'index.json');
    try {
      const { size } = await stat(path);
      if (size > MAX_MANIFEST_SIZE)
        throw new RegistryError(
          'OBD_REGISTRY_RESPONSE',
          `Cannot read "${path}": ${size} bytes, at most ${MAX_MANIFEST_SIZE} expected`,
          { source: path },
        );
      return parseIndex(await readFile(path), path);
    } catch (error) {
      if (!isSystemError(error) || error.code !== 'ENOENT') throw ioError(error, `read "${path}"`, path);
      if (orEmpty) return { schemaVersion: 2, mediaType: MediaType.OCI_INDEX, manifests: [] };
      throw new ConfigError(
        'OBD_CONFIG_NOT_FOUND',
        `Cannot open "${this.name}": no index.json in "${this.directory}"`,
        {
          source: path,
          hint: 'Expected the directory of an OCI image layout',
        },
      );
    }
  }

  #blobPath(digest: string): string {
    const [algorithm = '', hex = ''] = digest.split(':');
    return join(this.directory, 'blobs', algorithm, hex);
  }

  async #create(): Promise<void> {
    try {
      await makeDirectory(join(this.directory, 'blobs', 'sha256'));
      await makeDirectory(join(this.directory, 'blobs', 'sha512'));
      const marker = join(this.directory, 'oci-layout');
      const there = await stat(marker).catch(() => undefined);
      if (there === undefined)
        await writeAtomically(marker, (file) => file.writeFile('{"imageLayoutVersion":"1.0.0"}'));
    } catch (error) {
      throw ioError(error, `create image layout "${this.directory}"`, this.directory);
    }
  }
}

/** Writes a file beside its place, makes it durable, and gives it its name. */
/** Writes a blob to the beginning of a file, and gives the hex digits of its digest, if it has to be taken. */
async function copyAndHash(
  content: ReadableBlob,
  file: FileHandle,
  digest: string,
  options: PushBlobOptions,
): Promise<string | undefined> {
  const hash = new StreamDigest(digest.startsWith('sha512:') ? 'sha512' : 'sha256');
  const local = localFileOf(content);
  const step = local?.presence === null ? LOCAL_STEP : BLOCK;
  for (let at = 0; at < content.size; at += step) {
    if (options.signal?.aborted === true) throw abortedError(`write blob "${digest}"`, options.signal);
    const length = Math.min(step, content.size - at);
    if (local?.presence === null) {
      // The kernel copies, and another thread hashes meanwhile.
      const from = { fd: local.fd, offset: at + local.shift };
      await Promise.all([
        copyFileRange(from, { fd: file.fd, offset: at }, length),
        options.verified === true ? undefined : hash.updateFromFile(from, length),
      ]);
    } else {
      const chunk = new Uint8Array(length);
      await content.read(at, chunk, options.signal === undefined ? {} : { signal: options.signal });
      await Promise.all([hash.update(chunk), file.writeFile(chunk)]);
    }
    options.onProgress?.(length);
  }
  return options.verified === true && local?.presence === null ? undefined : hash.end();
}

async function writeAtomically(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const file = await open(temporary, 'wx', 0o644);
    try {
      await write(file);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw ioError(error, `write "${path}"`, path);
  }
  const directory = await open(join(path, '..'), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
