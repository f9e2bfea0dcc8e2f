/**
 * `oci-archive:FILE[:TAG]` and `docker-archive:FILE[:REFERENCE]`, to write. Blobs go into the tar as they come; the file
 * gets its name when the image is tagged, after all else:
 *
 *   blobs/sha256/<hex> ..   index.json   oci-layout   [manifest.json   repositories]
 *
 * What docker-archive: adds is for `docker load` and its like; like `docker save` since version 25, the archive is an OCI
 * layout besides.
 */
import { createHash, randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { access, constants, link, lstat, open, rename, unlink, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import {
  abortedError,
  ConfigError,
  IoError,
  ioError,
  isSystemError,
  RegistryError,
  type ReadableBlob,
} from '../blob/index.js';
import { formatReference, parseReference } from '../registryblob/index.js';
import { tarEnd, tarMemberHead, tarPadding } from '../tar/index.js';
import { blobMember } from './archive-image.js';
import { digestOf } from './digest.js';
import type { ImageTarget, PushBlobOptions, PushOutcome } from './image-store.js';
import { isIndexType, MediaType, parseManifest, type Descriptor } from './manifest.js';
import { CONTAINERD_NAME, REF_NAME } from './stored-image.js';

const BLOCK = 1024 * 1024;

/** How an archive is written. */
export interface ArchiveTargetOptions {
  readonly kind: 'oci-archive' | 'docker-archive';
  readonly path: string;
  /** Tag, or reference of a docker-archive. */
  readonly tag?: string;
  /** Take the place of a file of that name. */
  readonly replace?: boolean;
}

/** See the head of this file. Writes nothing before the first blob; {@link close} without {@link tag} leaves nothing. */
export class ArchiveTarget implements ImageTarget {
  readonly name: string;
  readonly repository = undefined;
  /** Docker's format has no indexes. */
  readonly singleImage: boolean;
  readonly #options: ArchiveTargetOptions;
  readonly #reference: string | undefined;
  readonly #written = new Map<string, number>();
  #file: Promise<TarFile> | undefined;
  /** Members follow each other. */
  #tail: Promise<unknown> = Promise.resolve();
  #pushed: { readonly digest: string; readonly bytes: Uint8Array } | undefined;

  /** @throws ConfigError for a reference that is none */
  constructor(options: ArchiveTargetOptions) {
    const { kind, path, tag } = options;
    this.#options = options;
    this.singleImage = kind === 'docker-archive';
    this.#reference =
      kind === 'docker-archive' && tag !== undefined ? formatReference(parseReference(tag)) : undefined;
    this.name = `${kind}:${path}${tag === undefined ? '' : `:${tag}`}`;
  }

  async check(): Promise<void> {
    const { path, replace } = this.#options;
    if (replace !== true) await refuseExisting(path);
    await access(dirname(path), constants.W_OK).catch((error: unknown) => {
      throw ioError(error, `create "${path}"`, path);
    });
  }

  hasBlob(descriptor: Pick<Descriptor, 'digest' | 'size'>): Promise<boolean> {
    return Promise.resolve(this.#written.get(descriptor.digest) === descriptor.size);
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
    return this.#inTurn(async (file): Promise<PushOutcome> => {
      if (this.#written.has(descriptor.digest)) return 'exists';
      const { signal, onProgress } = options;
      await file.add(blobMember(descriptor.digest), descriptor.size, async (write) => {
        const hash = createHash(descriptor.digest.startsWith('sha512:') ? 'sha512' : 'sha256');
        for (let at = 0; at < content.size; at += BLOCK) {
          if (signal?.aborted === true) throw abortedError(`write blob "${descriptor.digest}"`, signal);
          const chunk = new Uint8Array(Math.min(BLOCK, content.size - at));
          await content.read(at, chunk, signal === undefined ? {} : { signal });
          hash.update(chunk);
          await write(chunk);
          onProgress?.(chunk.byteLength);
        }
        const actual = hash.digest('hex');
        if (!descriptor.digest.endsWith(`:${actual}`))
          throw new RegistryError(
            'OBD_REGISTRY_DIGEST',
            `Cannot store "${descriptor.digest}": the content's digest is ${actual}`,
            { source: content.name },
          );
      });
      this.#written.set(descriptor.digest, descriptor.size);
      return 'pushed';
    });
  }

  async pushManifest(bytes: Uint8Array, mediaType: string): Promise<Descriptor> {
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
    await this.#inTurn(async (file) => {
      if (this.#written.has(descriptor.digest)) return;
      await file.add(blobMember(descriptor.digest), descriptor.size, (write) => write(bytes));
      this.#written.set(descriptor.digest, descriptor.size);
    });
    this.#pushed = { digest: descriptor.digest, bytes };
    return descriptor;
  }

  async tag(descriptor: Descriptor): Promise<void> {
    const documents = this.#documents(descriptor);
    await this.#inTurn(async (file) => {
      for (const [name, value] of documents) {
        const bytes = Buffer.from(JSON.stringify(value));
        await file.add(name, bytes.byteLength, (write) => write(bytes));
      }
      await file.finish(this.#options.replace === true);
    });
    this.#file = undefined;
  }

  /** What stands beside the blobs. */
  #documents(descriptor: Descriptor): [string, unknown][] {
    const { kind, tag } = this.#options;
    const { mediaType, digest, size, platform } = descriptor;
    const reference = this.#reference;
    const annotations =
      reference !== undefined
        ? { [CONTAINERD_NAME]: reference, [REF_NAME]: parseReference(reference).tag ?? 'latest' }
        : tag === undefined
          ? undefined
          : { [REF_NAME]: tag };
    const entry = {
      mediaType,
      digest,
      size,
      ...(annotations && { annotations }),
      ...(platform && { platform }),
    };
    const documents: [string, unknown][] = [
      ['index.json', { schemaVersion: 2, mediaType: MediaType.OCI_INDEX, manifests: [entry] }],
      ['oci-layout', { imageLayoutVersion: '1.0.0' }],
    ];
    if (kind === 'oci-archive') return documents;
    if (this.#pushed?.digest !== digest || isIndexType(mediaType))
      throw new ConfigError('OBD_CONFIG_VALUE', `Cannot write to "${this.name}": it holds single images`, {
        source: this.name,
        hint: 'Choose a platform, or write to oci-archive:',
      });
    const manifest = parseManifest(this.#pushed.bytes, this.name);
    documents.push([
      'manifest.json',
      [
        {
          Config: blobMember(manifest.config.digest),
          RepoTags: reference === undefined ? [] : [reference],
          Layers: manifest.layers.map((layer) => blobMember(layer.digest)),
        },
      ],
    ]);
    const top = manifest.layers.at(-1)?.digest.split(':')[1];
    if (reference !== undefined && top !== undefined) {
      const { tag: version = 'latest', registry, repository } = parseReference(reference);
      documents.push(['repositories', { [`${registry}/${repository}`]: { [version]: top } }]);
    }
    return documents;
  }

  /** Discards what was not tagged. */
  async close(): Promise<void> {
    this.#pushed = undefined;
    await this.#tail.catch(() => undefined);
    const file = this.#file;
    this.#file = undefined;
    await file?.then((tar) => tar.discard()).catch(() => undefined);
  }

  #inTurn<T>(work: (file: TarFile) => Promise<T>): Promise<T> {
    this.#file ??= TarFile.create(this.#options.path, this.#options.replace === true);
    const file = this.#file;
    const turn = this.#tail.catch(() => undefined).then(async () => work(await file));
    this.#tail = turn;
    turn.catch(() => undefined); // The caller's to report.
    return turn;
  }
}

/** A tar being written under a temporary name beside its own. */
class TarFile {
  readonly #path: string;
  readonly #temporary: string;
  readonly #handle: FileHandle;
  readonly #atExit = (): void => {
    rmSync(this.#temporary, { force: true });
  };
  #position = 0;
  #open = true;

  private constructor(path: string, temporary: string, handle: FileHandle) {
    this.#path = path;
    this.#temporary = temporary;
    this.#handle = handle;
    // Also when somebody ends the process without waiting.
    process.once('exit', this.#atExit);
  }

  /** @throws IoError OBD_IO_EXISTS if the name is taken and not to be replaced. */
  static async create(path: string, replace: boolean): Promise<TarFile> {
    if (!replace) await refuseExisting(path);
    const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}`);
    try {
      const file = new TarFile(path, temporary, await open(temporary, 'wx', 0o644));
      for (const name of ['blobs/', 'blobs/sha256/']) await file.#write(tarMemberHead(name, 0));
      return file;
    } catch (error) {
      throw ioError(error, `create "${path}"`, path);
    }
  }

  async #write(bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.byteLength;) {
        const { bytesWritten } = await this.#handle.write(
          bytes,
          done,
          bytes.byteLength - done,
          this.#position,
        );
        done += bytesWritten;
        this.#position += bytesWritten;
      }
    } catch (error) {
      throw ioError(error, `write "${this.#path}"`, this.#path);
    }
  }

  /** Adds a member; if its content fails to come, it is as if it had not been begun. */
  async add(
    name: string,
    size: number,
    content: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
  ): Promise<void> {
    const start = this.#position;
    try {
      await this.#write(tarMemberHead(name, size));
      await content((bytes) => this.#write(bytes));
      await this.#write(tarPadding(size));
    } catch (error) {
      this.#position = start;
      throw error;
    }
  }

  /** Ends the archive, makes it durable and gives it its name. */
  async finish(replace: boolean): Promise<void> {
    await this.#write(tarEnd());
    try {
      // A member that failed may have been longer than what followed it.
      await this.#handle.truncate(this.#position);
      await this.#handle.sync();
      await this.#close();
      if (replace) await rename(this.#temporary, this.#path);
      else {
        await this.#claim();
      }
      const directory = await open(dirname(this.#path), 'r');
      await directory.sync().finally(() => directory.close());
    } catch (error) {
      await this.discard();
      throw ioError(error, `create "${this.#path}"`, this.#path);
    }
    process.off('exit', this.#atExit);
  }

  /** A link never replaces anything, unlike a rename. */
  async #claim(): Promise<void> {
    await refuseExisting(this.#path);
    try {
      await link(this.#temporary, this.#path);
      await unlink(this.#temporary);
    } catch (error) {
      if (!isSystemError(error) || !['EPERM', 'EOPNOTSUPP', 'ENOSYS'].includes(error.code)) throw error;
      await rename(this.#temporary, this.#path);
    }
  }

  async #close(): Promise<void> {
    if (this.#open) await this.#handle.close();
    this.#open = false;
  }

  async discard(): Promise<void> {
    await this.#close();
    await unlink(this.#temporary).catch(() => undefined);
    process.off('exit', this.#atExit);
  }
}

async function refuseExisting(path: string): Promise<void> {
  const there = await lstat(path).catch(() => undefined);
  if (there !== undefined)
    throw new IoError('OBD_IO_EXISTS', `Cannot create "${path}": there is something of this name`, {
      source: path,
      hint: 'Choose another name, or replace it with --force',
    });
}
