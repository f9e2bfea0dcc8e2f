/**
 * A trace becomes a list of fetches. What a workload read, in its order, is turned into cache units of the stored blobs;
 * each unit counts where it was first needed. Then, stage by stage:
 *
 *   needed   L0:7 L2:3 L0:8 L0:10 │ L1:4 ...      a stage ends after so many bytes; the first ones are small
 *   fetched  L0:7-10, L2:3        │ L1:4 ...      within a stage neighbours are one fetch, small gaps included
 *
 * So what is needed first comes first, and the number of requests stays far below the number of reads.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { TraceRecord } from './trace-file.js';

/** A layer whose stored bytes are fetched. */
export interface TracedLayer {
  /** Position in `lowers`. */
  readonly number: number;
  /** Bytes of the LSMT file. */
  readonly size: number;
  /** Bytes of the stored blob, and of one unit of its cache. */
  readonly storedSize: number;
  readonly unitSize: number;
  /** Where a range of the LSMT file is stored. The range lies in the file. */
  stored(offset: number, length: number): { readonly offset: number; readonly length: number };
}

/** A range of a stored blob to be fetched. */
export interface Fetch {
  readonly layer: TracedLayer;
  readonly offset: number;
  readonly length: number;
}

/** What came of a trace. */
export interface Plan {
  /** In the order in which they are to be begun. */
  readonly fetches: readonly Fetch[];
  /** By layer number, one byte per unit: 1 if it is among the fetches. */
  readonly units: ReadonlyMap<number, Uint8Array>;
  /** Records that name no layer of the image, or bytes beyond its end; they are passed over. */
  readonly misfits: number;
  /** The first of them. */
  readonly firstMisfit: TraceRecord | undefined;
}

/** Longest fetch: large against what a request costs, small against what somebody may be waiting for meanwhile. */
const MAX_FETCH = 256 << 10;
/** Unneeded bytes between two needed ones that are cheaper to fetch than another request. */
const MAX_GAP = 12 << 10;
/** Bytes of the first stage, and of the largest: each is twice the one before. */
const FIRST_STAGE = 128 << 10;
const LAST_STAGE = 1 << 20;
/** Units looked at for one trace: what a hostile one costs is about a second, in turns. */
const MAX_STEPS = 1 << 24;
/** Records between two turns of the event loop. */
const TURN_STEPS = 1 << 16;

/**
 * @param layers those of the image whose bytes come from a registry.
 * @param lowers how many layers the image has; records of those that are not in `layers` need nothing.
 */
export async function planFetches(
  records: Iterable<TraceRecord>,
  layers: readonly TracedLayer[],
  lowers: number,
  signal?: AbortSignal,
): Promise<Plan> {
  const byNumber = new Map(layers.map((layer) => [layer.number, layer]));
  const units = new Map(
    layers.map(({ number, storedSize, unitSize }) => [
      number,
      new Uint8Array(Math.ceil(storedSize / unitSize)),
    ]),
  );
  const fetches: Fetch[] = [];
  let stage: { layer: TracedLayer; unit: number; order: number }[] = [];
  let stageBytes = 0;
  let stageLimit = FIRST_STAGE;
  let misfits = 0;
  let firstMisfit: TraceRecord | undefined;
  let steps = 0;
  let turn = TURN_STEPS;
  for (const record of records) {
    if (++steps > MAX_STEPS) break;
    if (steps > turn) {
      turn = steps + TURN_STEPS;
      await nextTurn();
      signal?.throwIfAborted();
    }
    const layer = byNumber.get(record.layer);
    if (record.layer >= lowers || (layer !== undefined && record.offset + record.count > layer.size)) {
      misfits++;
      firstMisfit ??= record;
      continue;
    }
    const wanted = units.get(record.layer);
    if (layer === undefined || wanted === undefined || record.count === 0) continue;
    const { offset, length } = layer.stored(record.offset, record.count);
    const end = Math.ceil((offset + length) / layer.unitSize);
    for (let unit = Math.floor(offset / layer.unitSize); unit < end; unit++, steps++) {
      if (wanted[unit] !== 0) continue;
      wanted[unit] = 1;
      stage.push({ layer, unit, order: stage.length });
      stageBytes += layer.unitSize;
    }
    if (stageBytes < stageLimit) continue;
    endStage(stage, units, fetches);
    stage = [];
    stageBytes = 0;
    stageLimit = Math.min(2 * stageLimit, LAST_STAGE);
  }
  endStage(stage, units, fetches);
  return { fetches, units, misfits, firstMisfit };
}

/** Neighbours become one fetch, which comes where the first of them was needed. */
function endStage(
  stage: { layer: TracedLayer; unit: number; order: number }[],
  units: ReadonlyMap<number, Uint8Array>,
  fetches: Fetch[],
): void {
  stage.sort((a, b) => a.layer.number - b.layer.number || a.unit - b.unit);
  const runs: { layer: TracedLayer; first: number; end: number; order: number }[] = [];
  for (const { layer, unit, order } of stage) {
    const last = runs.at(-1);
    if (
      last?.layer === layer &&
      (unit - last.end) * layer.unitSize <= MAX_GAP &&
      (unit + 1 - last.first) * layer.unitSize <= MAX_FETCH
    ) {
      units.get(layer.number)?.fill(1, last.end, unit);
      last.end = unit + 1;
      last.order = Math.min(last.order, order);
    } else runs.push({ layer, first: unit, end: unit + 1, order });
  }
  runs.sort((a, b) => a.order - b.order);
  for (const { layer, first, end } of runs) {
    const offset = first * layer.unitSize;
    fetches.push({ layer, offset, length: Math.min(end * layer.unitSize, layer.storedSize) - offset });
  }
}
