/**
 * What the server keeps, below its directory:
 *
 *   blobs/<algorithm>/<hex>                                content, once, whoever pushed it
 *   repositories/<name..>/_blobs/<algorithm>/<hex>         empty: this repository has the blob
 *   repositories/<name..>/_manifests/<algorithm>/<hex>     media type of a manifest; its bytes are a blob
 *   repositories/<name..>/_tags/<tag>                      digest
 *   .obd-uploads/<id>                                      bytes of an upload under way; emptied at start
 *
 * Files appear under their names when they are complete. Layouts (layouts.ts) are consulted after the store's own.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import {
  access,
  copyFile,
  link,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { ioError, isSystemError, makeDirectory } from '../blob/index.js';
import { Refusal } from './answers.js';
import { Layouts } from './layouts.js';
import { isDigestName, isTagName } from './names.js';

/** Content that can be sent. */
export interface StoredBlob {
  readonly path: string;
  readonly size: number;
}

/** A stored manifest. */
export interface StoredManifest {
  readonly digest: string;
  readonly mediaType: string;
  readonly bytes: Buffer;
}

/** Emptied at start: a name that nobody has by chance. */
const UPLOADS = '.obd-uploads';

/** Most bytes of a manifest. */
export const MAX_MANIFEST = 4 * 1024 * 1024;

/** Names must have been checked by names.ts. Calls may overlap. */
export class Store {
  readonly root: string;
  readonly #layouts: Layouts;

  private constructor(root: string) {
    this.root = root;
    this.#layouts = new Layouts(root);
  }

  /**
   * Makes the directory ready; what an interrupted upload left is removed.
   * @param readOnly the directory must be there and is not touched. @throws IoError
   */
  static async open(root: string, readOnly: boolean): Promise<Store> {
    try {
      if (readOnly) await access(root);
      else {
        await makeDirectory(root);
        await rm(join(root, UPLOADS), { recursive: true, force: true });
      }
    } catch (error) {
      throw ioError(error, `use "${root}" as a registry's directory`, root);
    }
    return new Store(root);
  }

  uploadPath(id: string): string {
    return join(this.root, UPLOADS, id);
  }

  /** The blob, if the repository has it. */
  async blob(repository: string, digest: string): Promise<StoredBlob | undefined> {
    if (
      (await this.#exists(this.#link(repository, '_blobs', digest))) ||
      (await this.#exists(this.#link(repository, '_manifests', digest)))
    )
      return sized(blobPath(this.root, digest));
    const layout = (await this.#layouts.all()).get(repository);
    return layout === undefined ? undefined : sized(blobPath(layout.directory, digest));
  }

  /**
   * Takes a complete file as a blob of the repository. The file is gone afterwards, whatever happens.
   * @throws Refusal DIGEST_INVALID
   */
  async adopt(repository: string, file: string, digest: string): Promise<void> {
    try {
      const actual = await hashFile(file, digest.split(':')[0] ?? 'sha256');
      if (actual !== digest) throw new Refusal(400, 'DIGEST_INVALID', `content is ${actual}, not ${digest}`);
      await putInPlace(file, blobPath(this.root, digest));
    } finally {
      await rm(file, { force: true });
    }
    await this.#write(this.#link(repository, '_blobs', digest), '');
  }

  /** Gives a repository a blob of another one. False if that has none. */
  async mount(repository: string, from: string, digest: string): Promise<boolean> {
    const found = await this.blob(from, digest);
    if (found === undefined) return false;
    const own = blobPath(this.root, digest);
    if (found.path !== own && !(await this.#exists(own))) {
      const temporary = this.uploadPath(randomUUID());
      await makeDirectory(join(this.root, UPLOADS));
      await link(found.path, temporary).catch(() => copyFile(found.path, temporary));
      await putInPlace(temporary, own);
    }
    await this.#write(this.#link(repository, '_blobs', digest), '');
    return true;
  }

  /** A manifest by tag or digest. */
  async manifest(repository: string, name: string): Promise<StoredManifest | undefined> {
    const layout = (await this.#layouts.all()).get(repository);
    const digest = isDigestName(name)
      ? name
      : ((await this.#readText(this.#tag(repository, name)))?.trim() ?? layout?.tags.get(name));
    if (digest === undefined || !isDigestName(digest)) return undefined;
    const mediaType = await this.#readText(this.#link(repository, '_manifests', digest));
    const own = mediaType !== undefined;
    if (!own && layout === undefined) return undefined;
    const place = await sized(blobPath(own ? this.root : (layout?.directory ?? this.root), digest));
    if (place === undefined || place.size > MAX_MANIFEST) return undefined;
    const bytes = await readFile(place.path);
    const type = mediaType ?? layout?.types.get(digest) ?? manifestType(bytes);
    return type === undefined ? undefined : { digest, mediaType: type, bytes };
  }

  /** Manifests of the repository that refer to a digest, by digest. Those of layouts are not looked through. */
  async referrers(repository: string, digest: string): Promise<StoredManifest[]> {
    const found: StoredManifest[] = [];
    for (const algorithm of ['sha256', 'sha512']) {
      const links = join(this.#directory(repository), '_manifests', algorithm);
      for (const hex of (await readdir(links).catch(() => [])).sort()) {
        const manifest = await this.manifest(repository, `${algorithm}:${hex}`);
        if (manifest !== undefined && subjectOf(manifest.bytes) === digest) found.push(manifest);
      }
    }
    return found;
  }

  /** Stores a manifest whose digest has been checked. */
  async putManifest(repository: string, manifest: StoredManifest, tag: string | undefined): Promise<void> {
    const path = blobPath(this.root, manifest.digest);
    if (!(await this.#exists(path))) await this.#write(path, manifest.bytes);
    await this.#write(this.#link(repository, '_manifests', manifest.digest), manifest.mediaType);
    if (tag !== undefined) await this.#write(this.#tag(repository, tag), manifest.digest);
  }

  /** Forgets a tag, or a manifest and the tags that point to it. False if there was none. Layouts are not changed. */
  async deleteManifest(repository: string, name: string): Promise<boolean> {
    if (!isDigestName(name)) return remove(this.#tag(repository, name));
    const had = await remove(this.#link(repository, '_manifests', name));
    for (const tag of had ? await this.#ownTags(repository) : [])
      if ((await this.#readText(this.#tag(repository, tag))) === name)
        await remove(this.#tag(repository, tag));
    return had;
  }

  /** Takes a blob from a repository; other repositories keep it. */
  async deleteBlob(repository: string, digest: string): Promise<boolean> {
    return remove(this.#link(repository, '_blobs', digest));
  }

  /** Sorted; undefined if there is no such repository. */
  async tags(repository: string): Promise<string[] | undefined> {
    const layout = (await this.#layouts.all()).get(repository);
    const known = await this.#exists(join(this.#directory(repository), '_manifests'));
    if (layout === undefined && !known) return undefined;
    return [...new Set([...(await this.#ownTags(repository)), ...(layout?.tags.keys() ?? [])])].sort();
  }

  /** All repositories, sorted. */
  async repositories(): Promise<string[]> {
    const found = new Set((await this.#layouts.all()).keys());
    const base = join(this.root, 'repositories');
    const walk = async (name: string, depth: number): Promise<void> => {
      const entries = await readdir(join(base, name), { withFileTypes: true }).catch(() => []);
      for (const entry of entries) {
        if (entry.name === '_manifests') found.add(name);
        else if (entry.isDirectory() && !entry.name.startsWith('_') && depth < 128)
          await walk(name === '' ? entry.name : `${name}/${entry.name}`, depth + 1);
      }
    };
    await walk('', 0);
    return [...found].sort();
  }

  async #ownTags(repository: string): Promise<string[]> {
    const names = await readdir(join(this.#directory(repository), '_tags')).catch(() => []);
    return names.filter(isTagName);
  }

  #directory(repository: string): string {
    return join(this.root, 'repositories', ...repository.split('/'));
  }

  #link(repository: string, kind: '_blobs' | '_manifests', digest: string): string {
    return join(this.#directory(repository), kind, ...digest.split(':'));
  }

  #tag(repository: string, tag: string): string {
    return join(this.#directory(repository), '_tags', tag);
  }

  async #exists(path: string): Promise<boolean> {
    return (await stat(path).catch(() => undefined)) !== undefined;
  }

  async #readText(path: string): Promise<string | undefined> {
    try {
      return await readFile(path, 'utf8');
    } catch (error) {
      if (isSystemError(error) && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return undefined;
      throw error;
    }
  }

  async #write(path: string, content: string | Buffer): Promise<void> {
    await makeDirectory(join(this.root, UPLOADS));
    const temporary = this.uploadPath(randomUUID());
    await writeFile(temporary, content, { flush: true });
    await makeDirectory(join(path, '..'));
    await rename(temporary, path);
  }
}

function blobPath(root: string, digest: string): string {
  return join(root, 'blobs', ...digest.split(':'));
}

async function sized(path: string): Promise<StoredBlob | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true ? { path, size: found.size } : undefined;
}

async function putInPlace(file: string, path: string): Promise<void> {
  const handle = await open(file, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
  await makeDirectory(join(path, '..'));
  await rename(file, path);
}

async function remove(path: string): Promise<boolean> {
  try {
    await rm(path);
    return true;
  } catch {
    return false;
  }
}

async function hashFile(path: string, algorithm: string): Promise<string> {
  const hash = createHash(algorithm);
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 }) as AsyncIterable<Buffer>)
    hash.update(chunk);
  return `${algorithm}:${hash.digest('hex')}`;
}

/** Digest of what a manifest refers to. */
function subjectOf(bytes: Buffer): unknown {
  try {
    return (JSON.parse(bytes.toString('utf8')) as { subject?: { digest?: unknown } | null }).subject?.digest;
  } catch {
    return undefined;
  }
}

/** Media type of a manifest that nobody gave one: what it says itself, or what it looks like. Undefined for other content. */
export function manifestType(bytes: Buffer): string | undefined {
  try {
    const { mediaType, manifests, layers, config } = JSON.parse(bytes.toString('utf8')) as Record<
      string,
      unknown
    >;
    if (typeof mediaType === 'string') return mediaType;
    if (Array.isArray(manifests)) return 'application/vnd.oci.image.index.v1+json';
    if (Array.isArray(layers) && typeof config === 'object')
      return 'application/vnd.oci.image.manifest.v1+json';
  } catch {
    // Not JSON.
  }
  return undefined;
}
