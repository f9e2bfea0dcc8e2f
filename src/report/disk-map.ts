/**
 * Which stretch of the disk is which layer's, whether it was read, and why it came: the merged index of the layers, held
 * against the records of the device. A stored block counts as fetched if all pieces that it lies in were.
 */
import { SECTOR } from '../blob/index.js';
import type { OpenedLower } from '../image/index.js';
import { mergeLayers, SegmentIndex, SegmentList } from '../lsmt/index.js';
import { unpackMap, type DeviceActivity } from '../service/index.js';
import type { DiskRun, PieceCause } from './report-data.js';

/** Bytes looked at one by one: what file systems in images are made of. */
const STEP = 4096;
/** Sectors looked up at once. */
const WALK = 1 << 16;

/** Which pieces of one stored blob came, and why. */
export interface BlobFetches {
  readonly pieceSize: number;
  readonly map: Uint8Array;
}

/** The records of an activity, unpacked. */
export interface Records {
  readonly causes: readonly string[];
  readonly reads: { readonly pieceSize: number; readonly bits: Uint8Array };
  /** By digest. */
  readonly blobs: ReadonlyMap<string, BlobFetches>;
}

/** @throws ConfigError if the service sent something else */
export function unpackRecords({ reads, fetches }: DeviceActivity): Records {
  return {
    causes: fetches.causes,
    reads: { pieceSize: reads.pieceSize, bits: unpackMap(reads.map) },
    blobs: new Map(
      fetches.blobs.map(({ digest, pieceSize, map }) => [digest, { pieceSize, map: unpackMap(map) }]),
    ),
  };
}

/** A layer as the map needs it. */
export interface MappedLower {
  readonly lower: OpenedLower;
  readonly digest: string;
  readonly targetDigest: string;
}

/** A file that segments point into. */
interface Owner {
  readonly layer: number;
  /** Number of the cause plus one, or 0. */
  cause(offset: number, length: number): number;
}

const NEVER = (): number => 0;

/** The cause of a range of stored bytes: 0 unless all of it came. */
function causeOfStored({ pieceSize, map }: BlobFetches, start: number, end: number): number {
  let cause = 0;
  for (let piece = Math.floor(start / pieceSize); piece * pieceSize < end; piece++) {
    const one = map[piece] ?? 0;
    if (one === 0) return 0;
    cause = cause === 0 ? one : cause;
  }
  return cause;
}

function ownersOf({ lower, digest, targetDigest }: MappedLower, records: Records): Owner[] {
  const { number: layer, zfile, payloadOffset } = lower;
  return lower.layer.files.map(({ blob }): Owner => {
    const itself = blob === lower.blob;
    const fetched = records.blobs.get(itself ? digest : targetDigest);
    // The target of a TurboOCI layer, if it is packed, is not to be found by its plain offsets.
    if (fetched === undefined || (!itself && blob !== lower.target)) return { layer, cause: NEVER };
    if (!itself || zfile === undefined) {
      const shift = itself ? payloadOffset : 0;
      return {
        layer,
        cause: (offset, length) => causeOfStored(fetched, offset + shift, offset + length + shift),
      };
    }
    const { blockSize } = zfile.end;
    return {
      layer,
      cause: (offset, length) => {
        const first = zfile.storedBlock(Math.floor(offset / blockSize));
        const last = zfile.storedBlock(Math.floor((offset + length - 1) / blockSize));
        const start = first.offset + payloadOffset;
        return causeOfStored(fetched, start, last.offset + last.length + payloadOffset);
      },
    };
  });
}

/** The disk's runs, ascending, disjoint, as long as they can be. Linear in the bytes that layers have. */
export function diskRuns(lowers: readonly MappedLower[], records: Records): DiskRun[] {
  const merged = mergeLayers(lowers.map(({ lower }) => lower.layer));
  const owners = lowers.toReversed().flatMap((lower) => ownersOf(lower, records));
  const index = SegmentIndex.build(merged.segments);
  const { pieceSize, bits } = records.reads;
  const isRead = (offset: number): boolean => {
    const piece = Math.floor(offset / pieceSize);
    return ((bits[Math.floor(piece / 8)] ?? 0) & (1 << (piece % 8))) !== 0;
  };
  const causes: readonly PieceCause[] = ['local', ...records.causes.map(pieceCause)];
  const runs: DiskRun[] = [];
  let last: { offset: number; length: number; layer: number; read: boolean; cause: PieceCause } | undefined;
  const list = new SegmentList();
  for (let at = 0; at < index.end; at += WALK) {
    index.lookup(at, Math.min(WALK, index.end - at), list);
    for (let i = 0; i < list.length; i++) {
      const owner = owners[list.tag[i] ?? -1];
      if (owner === undefined) continue;
      const start = (list.lba[i] ?? 0) * SECTOR;
      const end = start + (list.sectors[i] ?? 0) * SECTOR;
      const source = (list.moffset[i] ?? 0) * SECTOR - start;
      for (let offset = start; offset < end;) {
        const stop = Math.min(end, offset - (offset % STEP) + STEP);
        const read = isRead(offset);
        const cause = causes[owner.cause(source + offset, stop - offset)] ?? 'local';
        if (
          last?.layer === owner.layer &&
          last.read === read &&
          last.cause === cause &&
          last.offset + last.length === offset
        )
          last.length = stop - last.offset;
        else runs.push((last = { offset, length: stop - offset, layer: owner.layer, read, cause }));
        offset = stop;
      }
    }
  }
  return runs;
}

/** A cause that this version does not know counts as a read. */
function pieceCause(cause: string): PieceCause {
  return cause === 'open' || cause === 'prefetch' || cause === 'download' ? cause : 'read';
}

/** Calls `visit` with each piece of a run that lies in [start, end), in order. O(log n + k). */
export function eachRun(
  runs: readonly DiskRun[],
  start: number,
  end: number,
  visit: (run: DiskRun, number: number, from: number, to: number) => void,
): void {
  let low = 0;
  let high = runs.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const run = runs[middle];
    if (run !== undefined && run.offset + run.length <= start) low = middle + 1;
    else high = middle;
  }
  for (let i = low; i < runs.length; i++) {
    const run = runs[i];
    if (run === undefined || run.offset >= end) return;
    visit(run, i, Math.max(start, run.offset), Math.min(end, run.offset + run.length));
  }
}
