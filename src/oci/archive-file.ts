/**
 * A tar file whose members are read in place. Its headers are read once, content is passed over; no member is unpacked,
 * so no name in it can lead anywhere but to another member.
 */
import {
  checkRange,
  ConfigError,
  FileBlob,
  RegistryError,
  type ReadableBlob,
  type ReadOptions,
} from '../blob/index.js';
import { readTar, type SkippableChunks } from '../tar/index.js';
import { unpackArchive, type ArchivePacking } from './unpack-archive.js';

/** Images have tens of members; a file of headers only must not fill the memory. */
const MAX_MEMBERS = 100_000;
/** Longest name that is remembered: Linux has no longer paths, and a hostile archive could fill the memory with them. */
const MAX_NAME = 4096;
/** Links on the way to a member. */
const MAX_LINKS = 8;
/** Bytes read at once while headers are looked for. */
const STEP = 64 * 1024;

type Member = { readonly offset: number; readonly size: number } | { readonly link: string };

/** A window on the archive that leaves it open. */
class MemberBlob implements ReadableBlob {
  readonly name: string;
  readonly size: number;
  readonly #file: ReadableBlob;
  readonly #offset: number;

  constructor(file: ReadableBlob, name: string, offset: number, size: number) {
    this.#file = file;
    this.name = name;
    this.#offset = offset;
    this.size = size;
  }

  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    checkRange(this, offset, into.byteLength);
    await this.#file.read(this.#offset + offset, into, options);
  }

  /** The archive is its opener's. */
  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** The file from its beginning, in steps; what a member holds is passed over unread. */
function chunksOf(file: ReadableBlob): SkippableChunks {
  let at = 0;
  return {
    skip(length) {
      const skipped = Math.min(length, file.size - at);
      at += skipped;
      return skipped;
    },
    async *[Symbol.asyncIterator]() {
      while (at < file.size) {
        const chunk = new Uint8Array(Math.min(STEP, file.size - at));
        await file.read(at, chunk);
        at += chunk.byteLength;
        yield chunk;
      }
    },
  };
}

/** A name without `.`, `..`, doubled and leading slashes; `..` stops at the root. */
function normalised(path: string): string {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return parts.join('/');
}

/** See the head of this file. */
export class ArchiveFile {
  readonly path: string;
  readonly #file: FileBlob;
  readonly #members = new Map<string, Member>();

  private constructor(path: string, file: FileBlob) {
    this.path = path;
    this.#file = file;
  }

  /**
   * Opens the file and reads all headers. One that is packed with gzip or zstd is unpacked first.
   * @param workDir where to; default: the directory for temporary files.
   * @throws IoError; ConfigError for a packed archive; ConvertError OBD_CONVERT_BAD_TAR that says where.
   */
  static async open(path: string, workDir?: string): Promise<ArchiveFile> {
    let file = await FileBlob.open(path);
    try {
      const packing = await packingOf(file, path);
      if (packing !== undefined) {
        await file.close();
        file = await unpackArchive(path, packing, workDir);
      }
      const archive = new ArchiveFile(path, file);
      await archive.#scan();
      return archive;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async #scan(): Promise<void> {
    let count = 0;
    for await (const entry of readTar(chunksOf(this.#file), this.path)) {
      if (++count > MAX_MEMBERS)
        throw new RegistryError(
          'OBD_REGISTRY_RESPONSE',
          `Cannot read "${this.path}": it has more than ${MAX_MEMBERS} members`,
          { source: this.path, offset: entry.place.offset },
        );
      if (entry.path.length > MAX_NAME || entry.linkTarget.length > MAX_NAME) continue;
      const text = Buffer.from(entry.path, 'latin1').toString('utf8');
      const name = normalised(text);
      const target = Buffer.from(entry.linkTarget, 'latin1').toString('utf8');
      if (entry.type === 'file' && entry.contentOffset !== undefined)
        this.#members.set(name, { offset: entry.contentOffset, size: entry.size });
      else if (entry.type === 'link') this.#members.set(name, { link: normalised(target) });
      else if (entry.type === 'symlink' && !target.startsWith('/'))
        this.#members.set(name, { link: normalised(`${name}/../${target}`) });
      else this.#members.delete(name);
    }
  }

  /** True if there is such a file, be it by a link. */
  has(name: string): boolean {
    return this.#find(name) !== undefined;
  }

  #find(name: string): { readonly offset: number; readonly size: number } | undefined {
    let at = normalised(name);
    for (let links = 0; links <= MAX_LINKS; links++) {
      const member = this.#members.get(at);
      if (member === undefined || 'size' in member) return member;
      at = member.link;
    }
    return undefined;
  }

  /** A member's content. Closing it leaves the archive open. @throws RegistryError OBD_REGISTRY_NOT_FOUND */
  member(name: string): ReadableBlob {
    const found = this.#find(name);
    if (found === undefined)
      throw new RegistryError('OBD_REGISTRY_NOT_FOUND', `Cannot find "${name}" in archive "${this.path}"`, {
        source: this.path,
      });
    return new MemberBlob(this.#file, `${this.path}(${name})`, found.offset, found.size);
  }

  /** A small member as a whole. @throws RegistryError if it is missing or larger than `maxSize`. */
  async read(name: string, maxSize: number): Promise<Uint8Array> {
    const member = this.member(name);
    if (member.size > maxSize)
      throw new RegistryError(
        'OBD_REGISTRY_RESPONSE',
        `Cannot read "${name}" in archive "${this.path}": ${member.size} bytes, at most ${maxSize} expected`,
        { source: this.path },
      );
    const bytes = new Uint8Array(member.size);
    await member.read(0, bytes);
    return bytes;
  }

  /** Idempotent. */
  close(): Promise<void> {
    return this.#file.close();
  }
}

/** How the archive is packed. @throws ConfigError for what cannot be unpacked here */
async function packingOf(file: FileBlob, path: string): Promise<ArchivePacking | undefined> {
  const head = new Uint8Array(Math.min(4, file.size));
  await file.read(0, head);
  const packed = packedBy(head);
  if (packed === undefined || packed === 'gzip' || packed === 'zstd') return packed;
  throw new ConfigError('OBD_CONFIG_VALUE', `Cannot read "${path}": the archive is packed with ${packed}`, {
    source: path,
    expected: 'a tar, plain or packed with gzip or zstd',
    actual: packed,
    hint: `Unpack it with ${packed} -d first`,
  });
}

/** How bytes are packed, by the first four. */
export function packedBy(head: Uint8Array): ArchivePacking | 'xz' | 'bzip2' | undefined {
  const hex = Buffer.from(head).toString('hex');
  if (hex.startsWith('1f8b')) return 'gzip';
  if (hex.startsWith('28b52ffd')) return 'zstd';
  if (hex.startsWith('fd377a58')) return 'xz';
  if (hex.startsWith('425a68')) return 'bzip2';
  return undefined;
}
