import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NativeExt4Image } from './ext4-types.js';
import type { FakeRingOptions, NativeFakeRing } from './fake-ring.js';
import type { NativeIoLoop } from './io-loop.js';
import type { FileLoad, FileLoadResult, NativePlainServer } from './load.js';
import type { NativeMemoryQueue } from './memory-queue.js';
import type { NativeTcmuNetlink, ScsiDevice, ScsiResult } from './tcmu.js';
import type { NativeInflater } from './inflate.js';
import type { NativeDigest } from './digest.js';
import type { PackedBlocks } from './pack.js';
import type { NativeUnzstd } from './unzstd.js';
import type { NativeZFileStream } from './zfile-stream.js';

/**
 * What the compiled addon exports: one interface per bind_*.cc file. This file alone loads it; the files beside it
 * give the functions comfort and types, and nobody outside this room sees them raw.
 */
export interface Addon {
  // bind_codec.cc
  crc32c(data: Uint8Array, seed: number): number;
  readonly zstdVersion: string;
  compressBound(codec: number, length: number): number;
  compress(codec: number, from: Uint8Array, into: Uint8Array): number;
  decompress(codec: number, from: Uint8Array, into: Uint8Array): number;
  // bind_file.cc; all give 0 (fileSeek: an offset) or -errno
  fileLock(fd: number, kind: number): number;
  fileSeek(fd: number, offset: number, hole: number): number;
  filePunch(fd: number, offset: number, length: number): Promise<number>;
  fileCopy(
    fromFd: number,
    from: number,
    toFd: number,
    to: number,
    length: number,
  ): Promise<readonly number[]>;
  filePunchSync(fd: number, offset: number, length: number): number;
  // bind_ext4.cc
  readonly Ext4Image: { new (): NativeExt4Image; sourcePair(): Float64Array };
  // bind_io.cc
  readonly IoLoop: new (wakeFd: number) => NativeIoLoop;
  eventFd(): number;
  discardQueue(handle: number): boolean;
  // bind_fuse.cc; promises resolve with 0 or -errno first, then what was made
  fuseQueue(fd: number, name: string, size: number, readOnly: boolean): number;
  fuseConnect(source: string, readOnly: boolean): Promise<readonly number[]>;
  loopAttach(mountFd: number, file: string, readOnly: boolean): Promise<readonly number[]>;
  loopDetach(handle: number, force: boolean): Promise<readonly number[]>;
  loopJoin(handle: number): Promise<readonly number[]>;
  loopRemove(number: number): Promise<readonly number[]>;
  // bind_host.cc; 0 or -errno (raiseFileLimit: the limit)
  mount(
    source: string,
    target: string,
    type: string,
    flags: number,
    data: string,
  ): Promise<readonly number[]>;
  unmount(target: string, lazy: boolean): Promise<readonly number[]>;
  setIoFlusher(): number;
  exitNow(status: number): void;
  keepHeapSmall(): void;
  projectQuota(directory: string, project: number, bytes: number): Promise<readonly number[]>;
  raiseFileLimit(want: number): number;
  // bind_tcmu.cc
  tcmuOpen(
    path: string,
    mapSize: number,
    size: number,
    readOnly: boolean,
    config: string,
    serialPath: string,
  ): number;
  scsiDecode(device: ScsiDevice, cdb: Buffer, data: Buffer, capacity: number): ScsiResult;
  readonly TcmuNetlink: new (
    onEvent: (command: number, version: number, minor: number, deviceId: number, name: string) => void,
  ) => NativeTcmuNetlink;
  // bind_fake_ring.cc
  readonly FakeRing: new (options: FakeRingOptions) => NativeFakeRing;
  // bind_blocking.cc
  blockingCall(
    call: number,
    path: string,
    argument: string,
    done: (result: number, text: string) => void,
  ): void;
  // bind_memory.cc
  readonly MemoryQueue: new (size: number, readOnly: boolean, notify: () => void) => NativeMemoryQueue;
  // bind_segments.cc
  mergeSegments(layers: readonly Uint32Array[], most: number): Uint32Array | number;
  // bind_pack.cc
  packBlocks(codec: number, blockSize: number, plain: Uint8Array): Promise<PackedBlocks>;
  // bind_zfile.cc
  readonly ZFileStream: new (
    fd: number,
    offset: number,
    codec: number,
    blockSize: number,
    threads: number,
  ) => NativeZFileStream;
  // bind_digest.cc
  readonly Digest: new (algorithm: string) => NativeDigest;
  // bind_unzstd.cc
  readonly Unzstd: new () => NativeUnzstd;
  // bind_inflate.cc
  readonly Inflater: new (fast: boolean) => NativeInflater;
  // bind_load.cc
  fileLoad(load: FileLoad): Promise<FileLoadResult>;
  dropCache(fd: number): number;
  readonly PlainServer: new (handle: number, fd: number) => NativePlainServer;
}

function find(): string {
  for (let dir = dirname(fileURLToPath(import.meta.url)); dir !== dirname(dir); dir = dirname(dir)) {
    const path = join(dir, 'build', 'Release', 'overlaybd.node');
    if (existsSync(path)) return path;
  }
  throw new Error(
    'The native addon is not built: expected build/Release/overlaybd.node. Run "npm run build:native"',
  );
}

/** Directory that holds package.json, bin/ and config/. */
export const packageRoot = dirname(dirname(dirname(find())));

export const addon = createRequire(import.meta.url)(find()) as Addon;
