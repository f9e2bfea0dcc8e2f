/**
 * Compaction of an append layer while it is written to (docs/adr/0050-online-compaction.md): its data file gives back the
 * space of what was overwritten, its log the records that no longer count.
 *
 *   data file   | header | live .. dead .. live .. dead | live .. dead .. live | new writes ->
 *                                                       C                      end
 *
 *   1  `end` is the end of the file at this moment; wait for the writes in flight, then mark what is live below `end`
 *   2  flush: what is not marked is dead by records that are on disk
 *   3  wait for the reads in flight: nobody looks at dead blocks any more
 *   4  C: so much is dead below it as is live from it on. Copy the latter into the former, a batch at a time: data,
 *      fdatasync, then records for those pieces that nobody has overwritten meanwhile
 *   5  rewrite the log from the map under another name, and rename it over the old one (index-rewrite.ts)
 *   6  [C, end) is dead: cut it off, or free its blocks if writes have come after it
 *
 * A crash at any instant leaves a log whose records point at data that was on disk before them, and at nothing that was
 * reused or freed: blocks are reused after the records that made them dead are durable (2), freed after the log that
 * names them is gone (5). Nothing but this module is needed to read the result: it is an ordinary append layer.
 *
 * Memory: one bit per sector of data file (8 MiB at most, live-marks.ts), one batch.
 */

import { IoError, SECTOR } from '../blob/index.js';
import { punchHole } from '../native/index.js';
import type { LogRecord, LogWriter } from './index-log.js';
import { rewriteLog } from './index-rewrite.js';
import { LiveMarks } from './live-marks.js';
import type { RwFile } from './rw-file.js';
import type { SegmentMap } from './segment-map.js';
import { SegmentList } from './segment-index.js';

/** Bytes copied between two flushes: enough that those do not count, little enough to keep in memory. */
const BATCH = 8 << 20;
/** Reads or writes of one batch at a time: as many as the threads that do them. */
const LANES = 4;
/** Records that moving may take beside those in proportion to the segments. */
const ROOM_FOR_MOVES = 1 << 16;
/** Sectors of what file systems free at least. */
const BLOCK_SECTORS = 8;
/** Sectors of the map looked at in one step. */
const WALK = 1 << 16;

/** How to compact. */
export interface CompactOptions {
  /** Called before so many bytes are copied: the rate limit. */
  readonly pace?: (bytes: number) => Promise<void>;
  /** Compaction stops between two batches; what was done stays done. */
  readonly signal?: AbortSignal;
  /** Only the log is rewritten. Default false. */
  readonly logOnly?: boolean;
  /** Bytes copied between two flushes, whole sectors; smaller only in tests. */
  readonly batch?: number;
}

/** What came of it. Bytes. */
export interface CompactResult {
  readonly sizeBefore: number;
  readonly sizeAfter: number;
  /** Data that the layer holds. */
  readonly live: number;
  readonly copied: number;
  /** Freed in the middle of the data file, because writes had come after it. */
  readonly freed: number;
  readonly recordsBefore: number;
  readonly recordsAfter: number;
}

/** What the layer lets its compaction do. */
export interface CompactionHost {
  readonly data: RwFile;
  readonly log: LogWriter;
  readonly map: SegmentMap;
  readonly indexPath: string;
  /** Sector after the last that a write has claimed. */
  tail(): number;
  /** Settles when the writes that are in flight now have ended. */
  writesPassed(): Promise<void>;
  /** Settles when the reads that are in flight now have ended. */
  readsPassed(): Promise<void>;
  flush(): Promise<void>;
  /** Cuts the data file there, if no write has claimed anything since `end`; while the caller has the log's turn. */
  cutInTurn(end: number, sector: number): Promise<boolean>;
}

/** One stretch to be copied. Sectors. */
interface Piece {
  readonly lba: number;
  readonly sectors: number;
  readonly from: number;
  readonly to: number;
}

/**
 * Compacts a layer. One at a time. Where the disk is full, dead blocks are freed first, which takes no space, for the new
 * log takes some.
 * @throws IoError; AbortError
 */
export async function compactLayer(host: CompactionHost, options: CompactOptions): Promise<CompactResult> {
  try {
    return await compactOnce(host, options);
  } catch (error) {
    if (!(error instanceof IoError) || error.code !== 'OBD_IO_NO_SPACE') throw error;
    await freeDead(host, options.signal);
    return compactOnce(host, options);
  }
}

/** Steps 1 to 3. */
async function markLive(
  host: CompactionHost,
  signal: AbortSignal | undefined,
): Promise<{ end: number; marks: LiveMarks }> {
  const end = host.tail();
  await host.writesPassed();
  const marks = new LiveMarks(end);
  for await (const list of walk(host.map, signal))
    for (let i = 0; i < list.length; i++)
      if (list.tag[i] === 0) marks.mark(list.moffset[i] ?? 0, list.sectors[i] ?? 0);
  await host.log.inTurn(() => host.log.trimInTurn());
  await host.flush();
  await host.readsPassed();
  return { end, marks };
}

/** Gives the blocks of dead data back where they are. Old records name them still, and are overruled by later ones. */
async function freeDead(host: CompactionHost, signal: AbortSignal | undefined): Promise<void> {
  const { end, marks } = await markLive(host, signal);
  for (const { start, sectors } of marks.deadRuns(end)) {
    signal?.throwIfAborted();
    if (sectors >= BLOCK_SECTORS && !(await punchHole(host.data.fd, start * SECTOR, sectors * SECTOR)))
      return;
  }
}

async function compactOnce(host: CompactionHost, options: CompactOptions): Promise<CompactResult> {
  const { data, log, map } = host;
  const sizeBefore = data.size;
  const recordsBefore = log.records;
  const { end, marks } = await markLive(host, options.signal);
  const cut = options.logOnly === true ? end : marks.cut();
  // Every move takes a record: make room for them where the log is nearly full.
  if (cut < end && log.room < ROOM_FOR_MOVES + 4 * map.length)
    await rewriteLog(host, {
      signal: options.signal,
      dead: { start: 0, end: 0 },
      last: async () => undefined,
    });
  let copied = 0;
  if (cut < end) copied = await moveDown(host, marks, { cut, end }, options);
  await host.flush();
  await host.readsPassed();
  let freed = 0;
  await rewriteLog(host, {
    signal: options.signal,
    dead: { start: cut, end },
    last: async () => {
      if (cut < end && !(await host.cutInTurn(end, cut))) freed = (end - cut) * SECTOR;
    },
  });
  if (freed > 0 && !(await punchHole(data.fd, cut * SECTOR, freed))) freed = 0;
  return {
    sizeBefore,
    sizeAfter: data.size,
    live: map.dataSectors * SECTOR,
    copied,
    freed,
    recordsBefore,
    recordsAfter: log.records,
  };
}

/** The map in steps, other work between them. What changes meanwhile is seen as it was before or after. */
async function* walk(map: SegmentMap, signal: AbortSignal | undefined): AsyncGenerator<SegmentList> {
  const list = new SegmentList();
  for (let at = map.nextMapped(0); at < Infinity; at = map.nextMapped(at + WALK)) {
    signal?.throwIfAborted();
    map.lookup(at, WALK, list);
    yield list;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Step 4. @returns bytes copied. */
async function moveDown(
  host: CompactionHost,
  marks: LiveMarks,
  { cut, end }: { cut: number; end: number },
  options: CompactOptions,
): Promise<number> {
  const most = (options.batch ?? BATCH) / SECTOR;
  const room = marks.deadRuns(cut);
  let hole = room.next().value;
  let copied = 0;
  let batch: Piece[] = [];
  let pending = 0;
  const finish = async (): Promise<void> => {
    if (pending === 0) return;
    options.signal?.throwIfAborted();
    await options.pace?.(pending * SECTOR);
    await copyBatch(host, batch);
    copied += pending * SECTOR;
    batch = [];
    pending = 0;
  };
  for await (const list of walk(host.map, options.signal)) {
    // The list is reused by the next step, not by what happens in this one.
    for (let i = 0; i < list.length; i++) {
      const from = list.moffset[i] ?? 0;
      if (list.tag[i] !== 0 || from >= end) continue;
      const sectors = list.sectors[i] ?? 0;
      for (let done = Math.max(0, cut - from); done < sectors;) {
        if (hole === undefined) throw new TypeError('Compaction has more to move than room for it');
        const length = Math.min(sectors - done, hole.sectors, most - pending);
        batch.push({ lba: (list.lba[i] ?? 0) + done, sectors: length, from: from + done, to: hole.start });
        done += length;
        pending += length;
        hole =
          hole.sectors > length
            ? { start: hole.start + length, sectors: hole.sectors - length }
            : room.next().value;
        if (pending === most) await finish();
      }
    }
  }
  await finish();
  return copied;
}

/** Copies pieces, makes the copies durable, and lets the log name them where nobody was faster. */
async function copyBatch({ data, log, map }: CompactionHost, batch: readonly Piece[]): Promise<void> {
  const bytes = new Uint8Array(batch.reduce((sum, { sectors }) => sum + sectors, 0) * SECTOR);
  const part = ({ at, sectors }: Stretch): Uint8Array => bytes.subarray(at * SECTOR, (at + sectors) * SECTOR);
  await inLanes(stretches(batch, 'from'), (read) => data.read(read.start * SECTOR, part(read)));
  await inLanes(stretches(batch, 'to'), (write) => data.write(write.start * SECTOR, part(write)));
  await data.sync();
  await log.inTurn(async () => {
    const records: LogRecord[] = [];
    const now = new SegmentList();
    for (const { lba, sectors, from, to } of batch) {
      map.lookup(lba, sectors, now);
      for (let i = 0; i < now.length; i++) {
        const skip = (now.lba[i] ?? 0) - lba;
        if (now.tag[i] !== 0 || now.moffset[i] !== from + skip) continue;
        records.push({ offset: lba + skip, length: now.sectors[i] ?? 0, moffset: to + skip, zeroed: false });
      }
    }
    if (records.length > 0) await log.appendInTurn(records);
  });
}

/** Sectors of the file that are a stretch of the batch's buffer too. */
interface Stretch {
  readonly start: number;
  /** In the buffer, in which the pieces lie one behind the other. */
  readonly at: number;
  sectors: number;
}

/** One end of the pieces, those that continue each other there as one. */
function stretches(batch: readonly Piece[], end: 'from' | 'to'): Stretch[] {
  const out: Stretch[] = [];
  let at = 0;
  for (const piece of batch) {
    const last = out.at(-1);
    if (last !== undefined && last.start + last.sectors === piece[end]) last.sectors += piece.sectors;
    else out.push({ start: piece[end], at, sectors: piece.sectors });
    at += piece.sectors;
  }
  return out;
}

/** Does the work for each item, {@link LANES} at a time. Settles when all of it has; throws the first failure. */
async function inLanes<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const rest = items.values();
  const lane = async (): Promise<void> => {
    for (const item of rest) await work(item);
  };
  const results = await Promise.allSettled(Array.from({ length: LANES }, lane));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}
