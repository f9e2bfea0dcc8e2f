import { readSync } from 'node:fs';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { crc32c } from '../native/index.js';

/**
 * The sidecar of a cached blob says which units of the data file beside it are there (docs/adr/0020-cache-layout.md).
 * Little-endian:
 *
 *       0   8  magic "OBDUNITS"
 *       8   4  version, 1
 *      12   4  unit size in bytes
 *      16   8  blob size in bytes
 *      24   4  raw CRC-32C of bytes 0..23, seed 0
 *     512   1  1 = the digest of the complete blob was checked, and all of it is on disk
 *    4096   n  one byte per unit: 1 = present
 *
 * The header is made under a temporary name and renamed into place, and never changes after that. A unit has a byte of
 * its own, not a bit: processes that fill different units of one blob then never write the same byte, and a write of
 * one byte cannot tear. Bytes of value 1 are written by anybody, after the data is durable; 0 by whoever found the unit
 * bad (it overwrites the data next) or holds the blob's exclusive lock.
 */
const MAGIC = Buffer.from('OBDUNITS', 'latin1');
const VERSION = 1;
const CRC_OFFSET = 24;
const VERIFIED_OFFSET = 512;
const UNITS_OFFSET = 4096;

/** What a sidecar's header says. */
export interface SidecarHeader {
  readonly blobSize: number;
  readonly unitSize: number;
}

/** Number of units of a blob; the last one may be short. */
export function unitCountOf(header: SidecarHeader): number {
  return Math.ceil(header.blobSize / header.unitSize);
}

function encodeHeader(header: SidecarHeader): Buffer {
  const bytes = Buffer.alloc(UNITS_OFFSET);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(VERSION, 8);
  bytes.writeUInt32LE(header.unitSize, 12);
  bytes.writeBigUInt64LE(BigInt(header.blobSize), 16);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, CRC_OFFSET)), CRC_OFFSET);
  return bytes;
}

function decodeHeader(bytes: Buffer): SidecarHeader | undefined {
  if (bytes.length < CRC_OFFSET + 4 || !bytes.subarray(0, 8).equals(MAGIC)) return undefined;
  if (bytes.readUInt32LE(8) !== VERSION) return undefined;
  if (bytes.readUInt32LE(CRC_OFFSET) !== crc32c(bytes.subarray(0, CRC_OFFSET))) return undefined;
  const blobSize = bytes.readBigUInt64LE(16);
  const unitSize = bytes.readUInt32LE(12);
  if (unitSize === 0 || blobSize > BigInt(Number.MAX_SAFE_INTEGER)) return undefined;
  return { blobSize: Number(blobSize), unitSize };
}

/** Path of the sidecar of a data file. */
export function sidecarPath(dataPath: string): string {
  return `${dataPath}.units`;
}

/** Makes names in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** An open sidecar. Calls may overlap. Errors are those of node:fs. */
export class Sidecar {
  readonly header: SidecarHeader;
  readonly unitCount: number;
  readonly #handle: FileHandle;

  private constructor(handle: FileHandle, header: SidecarHeader) {
    this.#handle = handle;
    this.header = header;
    this.unitCount = unitCountOf(header);
  }

  /** Undefined if there is none, or it is not one, or of another version. */
  static async open(path: string): Promise<Sidecar | undefined> {
    let handle: FileHandle;
    try {
      handle = await open(path, 'r+');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
    try {
      const bytes = Buffer.alloc(UNITS_OFFSET);
      const { bytesRead } = await handle.read(bytes, 0, UNITS_OFFSET, 0);
      const header = decodeHeader(bytes.subarray(0, bytesRead));
      const { size } = await handle.stat();
      if (header && size === UNITS_OFFSET + unitCountOf(header)) return new Sidecar(handle, header);
    } catch (error) {
      await handle.close();
      throw error;
    }
    await handle.close();
    return undefined;
  }

  /** Makes one with no unit present, in place of any other, durably. The caller holds the blob's exclusive lock. */
  static async create(path: string, header: SidecarHeader): Promise<Sidecar> {
    const temporary = `${path}.tmp`;
    const handle = await open(temporary, 'w+', 0o600);
    try {
      await handle.writeFile(encodeHeader(header));
      await handle.truncate(UNITS_OFFSET + unitCountOf(header));
      await handle.sync();
      await rename(temporary, path);
      await syncDirectory(dirname(path));
      return new Sidecar(handle, header);
    } catch (error) {
      await handle.close();
      await rm(temporary, { force: true });
      throw error;
    }
  }

  /** Reads the bytes of units [first, first + into.length). */
  async read(first: number, into: Uint8Array): Promise<void> {
    let done = 0;
    while (done < into.length) {
      const { bytesRead } = await this.#handle.read(
        into,
        done,
        into.length - done,
        UNITS_OFFSET + first + done,
      );
      // Somebody cut the sidecar short: what it does not say is absent.
      if (bytesRead === 0) return void into.fill(0, done);
      done += bytesRead;
    }
  }

  /** As many of the bytes of units from `first` on as are there; the rest of `into` is left as it was. */
  readSync(first: number, into: Uint8Array): void {
    readSync(this.#handle.fd, into, 0, into.length, UNITS_OFFSET + first);
  }

  /** Writes `value` for units [first, first + count). Not durable before {@link sync}. */
  async write(first: number, count: number, value: 0 | 1): Promise<void> {
    await this.#writeAll(Buffer.alloc(count, value), UNITS_OFFSET + first);
  }

  async #writeAll(bytes: Buffer, at: number): Promise<void> {
    for (let done = 0; done < bytes.length;)
      done += (await this.#handle.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
  }

  /** True if the digest of the complete blob was checked once. */
  async readVerified(): Promise<boolean> {
    const byte = Buffer.alloc(1);
    const { bytesRead } = await this.#handle.read(byte, 0, 1, VERIFIED_OFFSET);
    return bytesRead === 1 && byte[0] === 1;
  }

  async writeVerified(verified: boolean): Promise<void> {
    await this.#writeAll(Buffer.from([verified ? 1 : 0]), VERIFIED_OFFSET);
  }

  async sync(): Promise<void> {
    await this.#handle.datasync();
  }

  /** Sets the modification time: when the blob was last used. */
  async touch(lastUse: Date): Promise<void> {
    await this.#handle.utimes(lastUse, lastUse);
  }

  async lastUse(): Promise<Date> {
    return (await this.#handle.stat()).mtime;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
