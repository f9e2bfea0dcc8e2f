/** Sources within one tar file: what opening, keeping and closing it takes. `oci-archive:FILE[:TAG]` is here, too. */
import { ConfigError, RegistryError, type ReadableBlob, type ReadOptions } from '../blob/index.js';
import { ArchiveFile } from './archive-file.js';
import type { ImageDocument } from './image-store.js';
import { MAX_MANIFEST_SIZE, parseIndex, type Descriptor } from './manifest.js';
import { checkSize, chooseEntry, StoredImage } from './stored-image.js';

/** A source in an archive, which is opened when it is first needed. */
export abstract class ArchiveImage extends StoredImage {
  readonly path: string;
  readonly #workDir: string | undefined;
  #archive: Promise<ArchiveFile> | undefined;

  /** @param workDir where a packed archive is unpacked. */
  constructor(path: string, workDir: string | undefined) {
    super();
    this.path = path;
    this.#workDir = workDir;
  }

  protected archive(): Promise<ArchiveFile> {
    this.#archive ??= ArchiveFile.open(this.path, this.#workDir);
    return this.#archive;
  }

  async close(): Promise<void> {
    const archive = this.#archive;
    this.#archive = undefined;
    await archive?.then((file) => file.close()).catch(() => undefined);
  }
}

/** Where an OCI layout keeps a blob. */
export function blobMember(digest: string): string {
  return `blobs/${digest.replace(':', '/')}`;
}

/** An OCI image layout in a tar file, to read. */
export class OciArchiveSource extends ArchiveImage {
  readonly name: string;
  readonly #tag: string | undefined;

  constructor(path: string, tag: string | undefined, workDir?: string) {
    super(path, workDir);
    this.#tag = tag;
    this.name = `oci-archive:${path}${tag === undefined ? '' : `:${tag}`}`;
  }

  async resolve(options: ReadOptions = {}): Promise<ImageDocument> {
    const archive = await this.archive();
    if (!archive.has('index.json'))
      throw new ConfigError(
        'OBD_CONFIG_NOT_FOUND',
        `Cannot open "${this.name}": no index.json in the archive`,
        {
          source: this.path,
          hint: archive.has('manifest.json')
            ? 'It is what docker save writes: docker-archive:FILE'
            : 'Expected the tar of an OCI image layout',
        },
      );
    const index = parseIndex(await archive.read('index.json', MAX_MANIFEST_SIZE), `${this.path}(index.json)`);
    return this.document(chooseEntry(index, this.#tag, this.name, 'oci-archive:FILE:TAG'), options);
  }

  async openBlob(descriptor: Descriptor): Promise<ReadableBlob> {
    const archive = await this.archive();
    const member = blobMember(descriptor.digest);
    if (!archive.has(member))
      throw new RegistryError(
        'OBD_REGISTRY_NOT_FOUND',
        `Cannot find blob "${descriptor.digest}" in "${this.name}"`,
        { source: this.name },
      );
    return checkSize(archive.member(member), descriptor, this.name);
  }
}
