/**
 * A streaming reader of layer tars: v7, ustar, GNU (L, K, S, base-256), star, PAX (path, linkpath, size, ids, times,
 * attributes, global headers, sparse 0.0, 0.1 and 1.0). Archives end at two zero blocks or at the end of the stream;
 * what follows is read and ignored, so that a decompressor in front still checks its trailer.
 *
 * Memory: one chunk of the stream, one header, one extended header (at most {@link MAX_EXTENSION}), one sparse map.
 */
import { ByteReader } from './byte-reader.js';
import {
  badTar,
  byteString,
  checksumHolds,
  checkSparseMap,
  decimal,
  MAX_SPARSE_PIECES,
  numberField,
  paxRecords,
  paxTime,
  textField,
  type SparseMap,
  type TarPlace,
  type TarTime,
} from './tar-fields.js';

/** What a member is. */
export type TarEntryType = 'file' | 'link' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';

/** A piece of file content. */
export interface TarPiece {
  /** Where it belongs in the file. */
  readonly offset: number;
  /** Part of a chunk of the stream, or a copy; as long valid as that. */
  readonly data: Uint8Array;
  /** Bytes that follow it in the file without a hole. */
  readonly more: number;
}

/** One member, extended headers applied. Texts are byte strings, as they stand in the archive. */
export interface TarEntry {
  readonly type: TarEntryType;
  readonly path: string;
  readonly linkTarget: string;
  /** The 12 permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly major: number;
  readonly minor: number;
  readonly mtime: TarTime;
  readonly atime: TarTime | undefined;
  readonly ctime: TarTime | undefined;
  /** Length of the file, holes included; 0 for all but files. */
  readonly size: number;
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
  readonly place: TarPlace;
  /** First byte of the content within the archive, if it lies there in one piece (undefined for sparse files). */
  readonly contentOffset: number | undefined;
  /** The content, in ascending order. Read it before asking for the next entry; what is not read is skipped. */
  pieces(): AsyncGenerator<TarPiece, void, undefined>;
}

/** Most bytes of a PAX body or a long name. */
export const MAX_EXTENSION = 2 * 1024 * 1024;
const BLOCK = 512;
const MAX_ID = 0xffff_ffff;

const TYPES: Readonly<Record<string, TarEntryType>> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'link',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'directory',
  D: 'directory',
  '6': 'fifo',
};

/** What extended headers said about the next member. */
interface Extensions {
  longName: string | undefined;
  longLink: string | undefined;
  readonly pax: Map<string, Uint8Array>;
  /** PAX sparse 0.0: repeated offset and numbytes keys. */
  readonly sparse: number[];
}

function noExtensions(): Extensions {
  return { longName: undefined, longLink: undefined, pax: new Map(), sparse: [] };
}

/** Reads an archive member by member. @param archive how errors name it. */
export async function* readTar(
  chunks: AsyncIterable<Uint8Array>,
  archive: string,
): AsyncGenerator<TarEntry, void, undefined> {
  const reader = new ByteReader(chunks);
  try {
    yield* new TarStream(reader, archive).entries();
    while ((await reader.some(Number.MAX_SAFE_INTEGER)) !== undefined);
  } finally {
    await reader.close();
  }
}

class TarStream {
  readonly #reader: ByteReader;
  readonly #archive: string;
  readonly #global = new Map<string, Uint8Array>();
  /** The current member's header: the stream's owner may use the chunk again before the member is passed. */
  readonly #block = new Uint8Array(BLOCK);
  /** Where the current member's stored content ends. */
  #end = 0;

  constructor(reader: ByteReader, archive: string) {
    this.#reader = reader;
    this.#archive = archive;
  }

  async *entries(): AsyncGenerator<TarEntry, void, undefined> {
    let extensions = noExtensions();
    let extended = false;
    for (;;) {
      const place = { archive: this.#archive, offset: this.#reader.position };
      const block = await this.#header(place);
      if (block === undefined) {
        if (extended) throw badTar(place, 'unexpected end of archive after an extended header');
        return;
      }
      const type = String.fromCharCode(block[156] ?? 0);
      if ('xXgLK'.includes(type)) {
        await this.#extension(type, block, extensions, place);
        extended ||= type !== 'g';
        continue;
      }
      if (type === 'V') {
        await this.#pass(numberField(block, 124, 12, 'size', place), place);
        continue;
      }
      const entry = await this.#entry(type, block, extensions, place);
      yield entry;
      await this.#pass(this.#end - this.#reader.position, place);
      extensions = noExtensions();
      extended = false;
    }
  }

  /** The next header block, or undefined at the end of the archive. */
  async #header(place: TarPlace): Promise<Uint8Array | undefined> {
    const block = await this.#reader.exactly(BLOCK);
    if (block.byteLength === 0) return undefined;
    if (block.byteLength < BLOCK) throw badTar(place, 'unexpected end of archive inside a header');
    if (block.every((byte) => byte === 0)) {
      const second = await this.#reader.exactly(BLOCK);
      if (second.every((byte) => byte === 0)) return undefined;
      throw badTar(place, 'a single zero block between members');
    }
    if (!checksumHolds(block, place)) throw badTar(place, 'header checksum does not hold');
    this.#block.set(block);
    return this.#block;
  }

  /** Passes over `length` bytes of content and the padding to the next block. */
  async #pass(length: number, place: TarPlace): Promise<void> {
    const rest = (BLOCK - ((this.#reader.position + length) % BLOCK)) % BLOCK;
    const got = await this.#reader.skip(length + rest);
    // Some writers leave out the padding of the last member; its content must be there.
    if (got < length) throw badTar(place, 'unexpected end of archive inside the content');
  }

  async #body(size: number, what: string, place: TarPlace): Promise<Uint8Array> {
    if (size < 0 || size > MAX_EXTENSION)
      throw badTar(place, `${what} of ${size} bytes, expected at most ${MAX_EXTENSION}`);
    const body = await this.#reader.exactly(size);
    if (body.byteLength < size) throw badTar(place, `unexpected end of archive inside a ${what}`);
    const copy = body.slice();
    await this.#pass(0, place);
    return copy;
  }

  async #extension(type: string, block: Uint8Array, extensions: Extensions, place: TarPlace): Promise<void> {
    const size = numberField(block, 124, 12, 'size', place);
    if (type === 'L' || type === 'K') {
      const text = textField(await this.#body(size, 'long name', place), 0, size);
      if (type === 'L') extensions.longName = text;
      else extensions.longLink = text;
      return;
    }
    const records = paxRecords(await this.#body(size, 'PAX header', place), place);
    for (const { key, value } of records) {
      if (type === 'g') {
        // An empty value takes a global record back.
        if (value.byteLength === 0) this.#global.delete(key);
        else this.#global.set(key, value);
      } else if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
        const isOffset = key === 'GNU.sparse.offset';
        if (extensions.sparse.length % 2 !== (isOffset ? 0 : 1))
          throw badTar(place, 'PAX sparse offsets and lengths do not alternate');
        if (extensions.sparse.length >= 2 * MAX_SPARSE_PIECES) throw badTar(place, 'sparse map is too long');
        extensions.sparse.push(decimal(byteString(value), key, place));
      } else {
        extensions.pax.set(key, value);
      }
    }
  }

  async #entry(flag: string, block: Uint8Array, extensions: Extensions, place: TarPlace): Promise<TarEntry> {
    let type = TYPES[flag];
    if (type === undefined) throw badTar(place, `unsupported member type ${JSON.stringify(flag)}`);
    const pax = new Map([...this.#global, ...extensions.pax]);
    const text = (key: string): string | undefined => {
      const value = pax.get(key);
      // An empty value means: as if it were not there.
      return value === undefined || value.byteLength === 0 ? undefined : byteString(value);
    };
    const path = text('GNU.sparse.name') ?? text('path') ?? extensions.longName ?? headerPath(block);
    const linkTarget = text('linkpath') ?? extensions.longLink ?? textField(block, 157, 100);
    if (path.includes('\0') || linkTarget.includes('\0')) throw badTar(place, 'a name with a NUL byte');
    if (flag === '\0' && path.endsWith('/')) type = 'directory';

    const number = (key: string, offset: number, length: number, max: number): number => {
      const record = text(key);
      const value =
        record !== undefined ? decimal(record, key, place) : numberField(block, offset, length, key, place);
      if (value < 0 || value > max) throw badTar(place, `${key} is ${value}, expected 0 to ${max}`);
      return value;
    };
    const time = (key: string): TarTime | undefined => {
      const record = text(key);
      return record === undefined ? undefined : paxTime(record, key, place);
    };
    const stored = number('size', 124, 12, Number.MAX_SAFE_INTEGER - 2 * BLOCK);
    const hasContent = type === 'file' || flag === 'D';
    const contentAt = this.#reader.position;
    const { map, size } =
      type === 'file'
        ? await this.#sparse(flag, block, extensions, text, stored, place)
        : { map: undefined, size: 0 };
    // GNU's extension blocks come before the stored bytes, PAX 1.0's map is part of them.
    const dataEnd = hasContent
      ? (flag === 'S' ? this.#reader.position : contentAt) + stored
      : this.#reader.position;
    this.#end = dataEnd;
    const whole: SparseMap = map ?? [0, size];
    if (map !== undefined) checkSparseMap(map, size, dataEnd - this.#reader.position, place);
    const device = type === 'char' || type === 'block';
    const reader = this.#reader;
    return {
      type,
      path,
      linkTarget: type === 'link' || type === 'symlink' ? linkTarget : '',
      contentOffset: map === undefined ? contentAt : undefined,
      mode: numberField(block, 100, 8, 'mode', place) & 0o7777,
      uid: number('uid', 108, 8, MAX_ID),
      gid: number('gid', 116, 8, MAX_ID),
      major: device ? numberField(block, 329, 8, 'major', place) : 0,
      minor: device ? numberField(block, 337, 8, 'minor', place) : 0,
      mtime: time('mtime') ?? {
        seconds: numberField(block, 136, 12, 'mtime', place),
        nanoseconds: 0,
      },
      atime: time('atime'),
      ctime: time('ctime'),
      size,
      xattrs: paxXattrs(pax, place),
      place,
      pieces: () => readPieces(reader, type === 'file' ? whole : [], place),
    };
  }

  /** The map and real size of a sparse file; reads what of the map stands in front of the content. */
  async #sparse(
    flag: string,
    block: Uint8Array,
    extensions: Extensions,
    text: (key: string) => string | undefined,
    stored: number,
    place: TarPlace,
  ): Promise<{ map: SparseMap | undefined; size: number }> {
    if (flag === 'S')
      return { map: await this.#gnuMap(block, place), size: numberField(block, 483, 12, 'real size', place) };
    const major = text('GNU.sparse.major');
    const minor = text('GNU.sparse.minor');
    const realSize = text('GNU.sparse.realsize') ?? text('GNU.sparse.size');
    const size = realSize === undefined ? stored : decimal(realSize, 'sparse size', place);
    if (major !== undefined && major !== '0') {
      if (major !== '1' || minor !== '0')
        throw badTar(place, `unknown sparse format ${major}.${minor ?? '?'}`);
      return { map: await this.#mapInContent(stored, place), size };
    }
    const map = text('GNU.sparse.map');
    if (map !== undefined)
      return { map: map.split(',').map((value) => decimal(value, 'sparse map', place)), size };
    if (extensions.sparse.length > 0) return { map: extensions.sparse, size };
    // An empty map, or none: only a stated size without pieces makes a file of nothing but a hole.
    return { map: realSize !== undefined ? (stored === 0 ? [] : [0, stored]) : undefined, size };
  }

  async #gnuMap(block: Uint8Array, place: TarPlace): Promise<number[]> {
    const map: number[] = [];
    const collect = (from: Uint8Array, at: number, count: number): void => {
      for (let i = 0; i < count; i++, at += 24) {
        if (from[at] === 0) return;
        map.push(
          numberField(from, at, 12, 'sparse offset', place),
          numberField(from, at + 12, 12, 'sparse length', place),
        );
      }
    };
    collect(block, 386, 4);
    let extended = (block[482] ?? 0) !== 0;
    while (extended) {
      const next = await this.#reader.exactly(BLOCK);
      if (next.byteLength < BLOCK) throw badTar(place, 'unexpected end of archive inside a sparse map');
      if (map.length / 2 > MAX_SPARSE_PIECES) throw badTar(place, 'sparse map is too long');
      extended = (next[504] ?? 0) !== 0;
      collect(next, 0, 21);
    }
    return map;
  }

  /** PAX sparse 1.0: lines of decimal numbers, a count and that many pairs, padded to a block. */
  async #mapInContent(stored: number, place: TarPlace): Promise<number[]> {
    const numbers: number[] = [];
    let wanted = 1;
    let line = '';
    let left = stored;
    while (numbers.length < wanted) {
      const block = left < BLOCK ? new Uint8Array() : await this.#reader.exactly(BLOCK);
      if (block.byteLength < BLOCK) throw badTar(place, 'unexpected end of archive inside a sparse map');
      left -= BLOCK;
      for (const char of byteString(block)) {
        if (numbers.length === wanted) break;
        if (char !== '\n') {
          line += char;
          if (line.length > 20) throw badTar(place, 'malformed sparse map');
          continue;
        }
        numbers.push(decimal(line, 'sparse map', place));
        line = '';
        if (numbers.length === 1) {
          if ((numbers[0] ?? 0) > MAX_SPARSE_PIECES) throw badTar(place, 'sparse map is too long');
          wanted = 1 + 2 * (numbers[0] ?? 0);
        }
      }
    }
    return numbers.slice(1);
  }
}

function headerPath(block: Uint8Array): string {
  const name = textField(block, 0, 100);
  // GNU's magic is "ustar " and keeps times and sparse maps where POSIX has the prefix; star's prefix is shorter.
  if (byteString(block.subarray(257, 263)) !== 'ustar\0') return name;
  const star = byteString(block.subarray(508, 512)) === 'tar\0';
  const prefix = textField(block, 345, star ? 131 : 155);
  return prefix === '' ? name : `${prefix}/${name}`;
}

function paxXattrs(pax: ReadonlyMap<string, Uint8Array>, place: TarPlace): Map<string, Uint8Array> {
  const xattrs = new Map<string, Uint8Array>();
  for (const [key, value] of pax) {
    if (!key.startsWith('LIBARCHIVE.xattr.')) continue;
    // The name is URL-encoded, the value base64; SCHILY's plain form wins if both are there.
    const name = key
      .slice(17)
      .replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)));
    const base64 = byteString(value);
    if (!/^[A-Za-z0-9+/]*={0,2}$/.test(base64)) throw badTar(place, `${key} is not base64`);
    xattrs.set(name, new Uint8Array(Buffer.from(base64, 'base64')));
  }
  for (const [key, value] of pax) if (key.startsWith('SCHILY.xattr.')) xattrs.set(key.slice(13), value);
  return xattrs;
}

/** Most bytes of one piece: what a stream hands over at once is smaller as a rule. */
const PIECE = 1024 * 1024;

async function* readPieces(
  reader: ByteReader,
  map: SparseMap,
  place: TarPlace,
): AsyncGenerator<TarPiece, void, undefined> {
  for (let i = 0; i < map.length; i += 2) {
    let offset = map[i] ?? 0;
    const end = offset + (map[i + 1] ?? 0);
    while (offset < end) {
      const data = await reader.some(Math.min(end - offset, PIECE));
      if (data === undefined) throw badTar(place, 'unexpected end of archive inside the content');
      yield { offset, data, more: end - offset - data.byteLength };
      offset += data.byteLength;
    }
  }
}
