/** What is fuzzed: for each format good bytes, a way to mend checksums after damage, and the code that reads it. */
import { Writable, Readable } from 'node:stream';
import { MemoryBlob, WritableMemoryBlob } from '../../src/blob/index.js';
import { BlockDevice, DeviceMeter } from '../../src/blockdev/index.js';
import { IoGuard } from '../../src/blockdev/io-guard.js';
import { ByteReader } from '../../src/blockdev/nbd/byte-reader.js';
import { handshake } from '../../src/blockdev/nbd/handshake.js';
import { transmission } from '../../src/blockdev/nbd/transmission.js';
import { GzipBlob } from '../../src/gzip/index.js';
import { parseImageConfig as parseDeviceConfig, parseServiceConfig } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { openSealedLayer, openWarpLayer, SegmentMap } from '../../src/lsmt/index.js';
import { replayLog } from '../../src/lsmt/index-log.js';
import { readRwHeader } from '../../src/lsmt/rw-header.js';
import type { RwFile } from '../../src/lsmt/rw-file.js';
import { crc32c } from '../../src/native/index.js';
import { parseImageConfig, parseImageName, parseIndex, parseManifest } from '../../src/oci/index.js';
import { parseFileList, parseTrace } from '../../src/prefetch/index.js';
import { findInAuths, parseCredentialsJson } from '../../src/registryblob/credentials.js';
import { parseChallenges } from '../../src/registryblob/challenge.js';
import { parseBlobUrl, parseReference } from '../../src/registryblob/index.js';
import { readTar, tarPayload } from '../../src/tar/index.js';
import { ZFileReader } from '../../src/zfile/index.js';
import { gzipWithIndex } from '../gzip/build-index.js';
import { layerBytes } from '../support/layers.js';
import { zfile } from '../zfile/support.js';
import { tarMember, paxMember, sparseMembers } from './tar-seeds.js';

/** One format under test. */
export interface Format {
  readonly name: string;
  readonly seeds: readonly Buffer[];
  /** Offsets (from the end if negative) of fields that decide. */
  readonly places?: readonly number[];
  /** Makes checksums hold again, so that what is behind them is reached. */
  readonly mend?: (bytes: Buffer) => void;
  /** Resolves, or rejects with an OverlaybdError; see also `refusal`. */
  readonly run: (bytes: Buffer) => unknown;
  /** True for an error without code that this format may refuse bytes with. */
  readonly refusal?: (error: Error) => boolean;
  /** Inputs of this format for each thousand of a run. */
  readonly share: number;
}

const LOGGER = silentLogger;
const text = (value: unknown): Buffer =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
const DIGEST = `sha256:${'0123456789abcdef'.repeat(4)}`;

/** Reads the beginning, the end and something between; large claims are not followed. */
async function readParts(blob: {
  size: number;
  read(at: number, into: Uint8Array): Promise<void>;
}): Promise<void> {
  const length = Math.min(blob.size, 3000);
  const into = new Uint8Array(length);
  for (const at of new Set([0, Math.floor((blob.size - length) / 2), blob.size - length]))
    await blob.read(at, into);
}

function mendZFile(bytes: Buffer): void {
  const digest = (at: number): void => {
    const end = Buffer.from(bytes.subarray(at, at + 512));
    if (end.byteLength < 512) return;
    end.writeUInt32LE(0, 28);
    bytes.writeUInt32LE(crc32c(end, 0), at + 28);
  };
  const trailer = bytes.byteLength - 512;
  if (trailer < 512) return;
  const table = Number(bytes.readBigUInt64LE(trailer + 40));
  if (table >= 512 && table <= trailer) {
    const crc = crc32c(bytes.subarray(table, trailer), 0);
    bytes.writeUInt32LE(crc, trailer + 64);
    bytes.writeUInt32LE(crc, 64);
  }
  digest(0);
  digest(trailer);
}

function mendTar(bytes: Buffer): void {
  for (let at = 0; at + 512 <= bytes.byteLength; at += 512) {
    const block = bytes.subarray(at, at + 512);
    if (!block.includes('ustar', 250)) continue;
    block.fill(0x20, 148, 156);
    let sum = 0;
    for (const byte of block) sum += byte;
    block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  }
}

async function readArchive(bytes: Buffer): Promise<void> {
  async function* chunks(): AsyncGenerator<Uint8Array> {
    yield bytes.subarray(0, bytes.byteLength >> 1);
    yield bytes.subarray(bytes.byteLength >> 1);
  }
  let count = 0;
  for await (const entry of readTar(chunks(), 'fuzz')) {
    if (count++ % 2 === 0) {
      let end = 0;
      for await (const piece of entry.pieces()) {
        if (piece.offset < end || piece.offset + piece.data.byteLength > entry.size)
          throw new TypeError(`Piece at ${piece.offset} is out of order or beyond ${entry.size}`);
        end = piece.offset + piece.data.byteLength;
      }
    }
  }
}

const lsmtSeed = Buffer.from(
  layerBytes(
    [
      { start: 2, length: 3, fill: 1 },
      { start: 5, length: 4, fill: 0 },
      { start: 20, length: 7, fill: 2 },
    ],
    64 * 512,
  ),
);
/** Header and 16 byte records of a writable layer: those of a sealed one do, with other flags. */
function logSeed(): Buffer {
  const header = Buffer.from(lsmtSeed.subarray(0, 4096));
  header.writeUInt32LE(1, 28);
  const records = Buffer.alloc(16 * 40);
  for (let i = 0; i < 40; i++) {
    records.writeBigUInt64LE(BigInt((i * 13) % 90) | (BigInt(1 + (i % 9)) << 50n), 16 * i);
    records.writeBigUInt64LE(BigInt(8 + i * 9) | (i % 7 === 6 ? 1n << 55n : 0n), 16 * i + 8);
  }
  return Buffer.concat([header, records]);
}

async function replay(bytes: Buffer): Promise<void> {
  // Only name, size and read() of the file are used by either.
  const file = new MemoryBlob(bytes, 'log') as unknown as RwFile;
  await readRwHeader(file, 'index');
  const map = new SegmentMap(true);
  await replayLog(file, 1 << 20, map);
}

const plainGzip = Buffer.from('some text that packs well, '.repeat(900));
const gzip = gzipWithIndex(plainGzip, 8192);
const rawGzip = gzipWithIndex(plainGzip.subarray(0, 9000), 8192, false);

function nbdSeeds(): Buffer[] {
  const option = (kind: number, body: Buffer): Buffer => {
    const head = Buffer.alloc(16);
    head.writeBigUInt64BE(0x49484156454f5054n);
    head.writeUInt32BE(kind, 8);
    head.writeUInt32BE(body.byteLength, 12);
    return Buffer.concat([head, body]);
  };
  const request = (command: number, flags: number, offset: number, length: number, payload = 0): Buffer => {
    const head = Buffer.alloc(28 + payload);
    head.writeUInt32BE(0x25609513);
    head.writeUInt16BE(flags, 4);
    head.writeUInt16BE(command, 6);
    head.writeBigUInt64BE(BigInt(offset), 16);
    head.writeUInt32BE(length, 24);
    return head;
  };
  const flags = Buffer.from([0, 0, 0, 3]);
  const name = 'base:allocation';
  const context = Buffer.alloc(12 + name.length);
  context.writeUInt32BE(1, 4);
  context.writeUInt32BE(name.length, 8);
  context.write(name, 12);
  const go = option(7, Buffer.alloc(6));
  const commands = [
    request(0, 0, 0, 4096),
    request(1, 1, 512, 512, 512),
    request(3, 0, 0, 0),
    request(4, 0, 1024, 1024),
    request(5, 0, 0, 65536),
    request(6, 2, 2048, 4096),
    request(7, 8, 0, 65536),
    request(2, 0, 0, 0),
  ];
  return [
    Buffer.concat([flags, option(8, Buffer.alloc(0)), option(10, context), go, ...commands]),
    Buffer.concat([
      flags,
      option(3, Buffer.alloc(0)),
      option(9, context),
      option(6, Buffer.alloc(6)),
      option(1, Buffer.alloc(0)),
    ]),
    Buffer.concat([flags, option(1, Buffer.alloc(0)), ...commands]),
    Buffer.concat([flags, go, ...commands.slice(0, 4)]),
  ];
}

async function talkNbd(bytes: Buffer): Promise<void> {
  const reader = new ByteReader(Readable.from([bytes], { objectMode: false }));
  const out = new Writable({
    write: (_chunk, _encoding, done) => {
      done();
    },
  });
  const blob = new WritableMemoryBlob(Buffer.alloc(65536));
  const device = new BlockDevice(blob, { readOnly: (bytes.byteLength & 1) === 1 });
  const negotiated = await handshake(reader, out, device);
  const guard = new IoGuard(device, LOGGER);
  try {
    if (negotiated !== undefined)
      await transmission(reader, out, { device, guard, meter: new DeviceMeter() }, negotiated, LOGGER);
  } finally {
    // As front ends do when a device goes: its clock would keep it and its memory for a second more, and two thousand
    // devices come and go in one.
    guard.stop();
  }
}

const manifest = {
  schemaVersion: 2,
  mediaType: 'application/vnd.oci.image.manifest.v1+json',
  config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: DIGEST, size: 7 },
  layers: [
    {
      mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
      digest: DIGEST,
      size: 99,
      annotations: { 'containerd.io/snapshot/overlaybd/blob-size': '99' },
    },
  ],
};
const index = {
  schemaVersion: 2,
  manifests: [{ ...manifest.config, platform: { os: 'linux', architecture: 'amd64', variant: 'v1' } }],
};
const imageConfig = {
  architecture: 'amd64',
  os: 'linux',
  rootfs: { type: 'layers', diff_ids: [DIGEST] },
  history: [{ created_by: 'x', empty_layer: true }],
};
const deviceConfig = {
  repoBlobUrl: 'https://registry.example/v2/a/b/blobs',
  lowers: [{ digest: DIGEST, size: 99, dir: '/x', targetFile: '', gzipIndex: '/y' }, { file: '/layer' }],
  upper: { index: '/i', data: '/d' },
  resultFile: '/r',
  accelerationLayer: false,
  recordTracePath: '',
};
const serviceConfig = {
  logConfig: { logLevel: 1, logPath: '/log' },
  cacheConfig: { cacheType: 'file', cacheDir: '/c', cacheSizeGB: 4, refillSize: 262144 },
  gzipCacheConfig: { enable: true, cacheSizeGB: 4 },
  credentialConfig: { mode: 'file', path: '/cred' },
  download: { enable: true, delay: 600, maxMBps: 100 },
  ioEngine: 0,
  exporterConfig: { enable: false, port: 9863 },
};
const credentials = {
  auths: { 'registry.example/a': { username: 'u', password: 'p' }, other: { auth: 'dTpw' } },
};

const one = { name: 'a/b', size: 1500, type: '0' } as const;

/** Every format, with seeds made once. */
export async function formats(): Promise<Format[]> {
  const plain = Buffer.from('twelve bytes'.repeat(3000));
  const zfiles = [
    (await zfile(plain, {})).bytes,
    (await zfile(plain.subarray(0, 9000), { finalHeader: false })).bytes,
    (await zfile(Buffer.alloc(0), {})).bytes,
  ];
  const archive = Buffer.concat([
    paxMember({ path: 'x/y', mtime: '1.5' }),
    tarMember(one),
    ...sparseMembers(),
    Buffer.alloc(1024),
  ]);
  const trace = Buffer.alloc(24 * 6);
  trace.writeUInt32LE(0xc2ef1820);
  trace.writeBigUInt64LE(24n * 5n, 8);
  for (let i = 1; i < 6; i++) {
    trace.write('R', 24 * i);
    trace.writeUInt32LE(i % 3, 24 * i + 4);
    trace.writeBigUInt64LE(4096n, 24 * i + 8);
    trace.writeBigInt64LE(BigInt(i * 8192), 24 * i + 16);
  }
  return [
    {
      name: 'tar archive',
      seeds: [archive, Buffer.concat([tarMember({ name: 'long', size: 0, type: '5' }), Buffer.alloc(1024)])],
      places: [124, 156, 148, 345, 483, 512, 636, 1024],
      mend: mendTar,
      run: readArchive,
      share: 70,
    },
    {
      name: 'tar wrapper',
      seeds: [
        Buffer.concat([
          paxMember({ size: '1500' }),
          tarMember({ ...one, name: 'overlaybd.commit' }),
          Buffer.alloc(1024),
        ]),
        Buffer.concat([tarMember(one), Buffer.alloc(1024)]),
      ],
      places: [124, 156, 512, 1024 + 124, 1024 + 156],
      mend: mendTar,
      run: async (bytes) => readParts(await tarPayload(new MemoryBlob(bytes, 'fuzz'))),
      share: 60,
    },
    {
      name: 'zfile',
      seeds: zfiles,
      places: [32, 40, 48, 56, 72, 76, 84, -512 + 32, -512 + 40, -512 + 48, -512 + 56, -512 + 72, -520],
      mend: mendZFile,
      run: async (bytes) => readParts(await ZFileReader.open(new MemoryBlob(bytes, 'fuzz'))),
      share: 120,
    },
    {
      name: 'lsmt layer',
      seeds: [lsmtSeed],
      places: [24, 28, 32, 40, 48, -4096 + 28, -4096 + 32, -4096 + 40, -4096 + 48, -8192, -8176, -8160],
      run: async (bytes) => {
        const blob = new MemoryBlob(bytes, 'fuzz');
        await ((bytes.byteLength & 1) === 0
          ? openSealedLayer(blob)
          : openWarpLayer(blob, new MemoryBlob(plain)));
      },
      share: 130,
    },
    {
      name: 'lsmt log',
      seeds: [logSeed()],
      places: [28, 48, 4096, 4102, 4104, 4110, 4112],
      run: replay,
      share: 80,
    },
    {
      name: 'gzip index',
      seeds: [gzip.index, rawGzip.index],
      places: [8, 10, 17, 21, 25, 33, 41, 49, 313, 321, -29, -21, -13, -5, -4],
      mend: (bytes) => {
        if (bytes.byteLength < 333) return;
        bytes.writeBigInt64LE(BigInt(bytes.byteLength), 41);
        bytes.writeUInt32LE(crc32c(bytes.subarray(0, 329)), 329);
      },
      run: async (bytes) => {
        const gz = bytes.byteLength === rawGzip.index.byteLength ? rawGzip.gzip : gzip.gzip;
        await readParts(await GzipBlob.open(new MemoryBlob(gz, 'gz'), new MemoryBlob(bytes, 'fuzz')));
      },
      share: 40,
    },
    {
      name: 'gzip data',
      seeds: [gzip.gzip],
      run: async (bytes) => {
        const padded = Buffer.alloc(gzip.gzip.byteLength);
        bytes.copy(padded);
        await readParts(await GzipBlob.open(new MemoryBlob(padded, 'fuzz'), new MemoryBlob(gzip.index)));
      },
      share: 20,
    },
    {
      name: 'trace',
      seeds: [trace],
      mend: (bytes) => {
        if (bytes.byteLength < 24) return;
        bytes.writeUInt32LE(0xc2ef1820);
        bytes.writeBigUInt64LE(BigInt(bytes.byteLength - 24), 8);
        bytes.writeUInt32LE(crc32c(bytes.subarray(24), 0), 16);
      },
      run: (bytes) => parseTrace(bytes, 'fuzz'),
      share: 100,
    },
    {
      name: 'prefetch list',
      seeds: [text('/usr/bin/x\n/etc/*\n/lib/\n\n/a b')],
      run: (bytes) => parseFileList(bytes, 'fuzz'),
      share: 60,
    },
    {
      name: 'config.v1.json',
      seeds: [text(deviceConfig)],
      run: (bytes) => parseDeviceConfig(bytes.toString(), 'fuzz', LOGGER),
      share: 60,
    },
    {
      name: 'overlaybd.json',
      seeds: [text(serviceConfig)],
      run: (bytes) => parseServiceConfig(bytes.toString(), 'fuzz', LOGGER),
      share: 40,
    },
    {
      name: 'cred.json',
      seeds: [text(credentials)],
      run: (bytes) => {
        const json = parseCredentialsJson(bytes, 'fuzz');
        findInAuths(json, { host: 'registry.example', repository: 'a/b' } as never, 'fuzz');
      },
      share: 50,
    },
    {
      name: 'manifest',
      seeds: [text(manifest)],
      run: (bytes) => parseManifest(bytes, 'fuzz'),
      share: 30,
    },
    { name: 'image index', seeds: [text(index)], run: (bytes) => parseIndex(bytes, 'fuzz'), share: 30 },
    {
      name: 'image config',
      seeds: [text(imageConfig)],
      run: (bytes) => parseImageConfig(bytes, 'fuzz'),
      share: 30,
    },
    {
      name: 'reference',
      seeds: ['debian:12', 'localhost:5000/a/b@' + DIGEST, '[::1]:5000/x-y/z__q:tag', 'oci:/dir:tag'].map(
        text,
      ),
      run: (bytes) => {
        let refused: unknown;
        for (const parse of [parseReference, parseImageName])
          try {
            parse(bytes.toString());
          } catch (error) {
            if (!(error instanceof Error) || !('code' in error)) throw error;
            refused = error;
          }
        if (refused !== undefined) throw refused as Error;
      },
      share: 60,
    },
    {
      name: 'blob URL',
      seeds: [text(`https://registry.example:443/v2/a/b/blobs/${DIGEST}`)],
      run: (bytes) => parseBlobUrl(bytes.toString()),
      share: 20,
    },
    {
      name: 'challenge',
      seeds: [
        text(
          'Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull", Basic realm="x"',
        ),
      ],
      run: (bytes) => parseChallenges(bytes.toString()),
      share: 30,
    },
    {
      name: 'nbd',
      seeds: nbdSeeds(),
      places: [3, 4, 12, 16, 20, 28],
      run: talkNbd,
      // A client that breaks the protocol is told nothing: its connection ends, and this is why.
      refusal: (error) => error.constructor === Error,
      share: 40,
    },
  ];
}
