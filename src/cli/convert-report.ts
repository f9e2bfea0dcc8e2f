/** What `obd convert` prints: tables for people, lines of JSON for programs. */
import type { ConvertedImage, ConvertEvent, ImagePlan } from '../convert/index.js';
import { OverlaybdError } from '../blob/index.js';
import { formatDuration, formatShare, formatSize, formatTable } from './units.js';

/** Progress events of one layer are at least this far apart. */
const PROGRESS_MS = 500;

/** A line of JSON on stdout. */
export function printEvent(event: { readonly event: string }): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

/** Prints events as they come; of progress, what a program can use. */
export function eventPrinter(now: () => number = Date.now): (event: ConvertEvent) => void {
  let last = 0;
  return (event) => {
    if (event.event === 'progress' && event.done < event.size) {
      if (now() - last < PROGRESS_MS) return;
      last = now();
    }
    printEvent(event);
  };
}

/** The error as the last event. */
export function errorEvent(error: unknown): {
  readonly event: 'error';
  readonly message: string;
  readonly code?: string;
  readonly hint?: string;
} {
  const message = error instanceof Error ? error.message : String(error);
  if (!(error instanceof OverlaybdError)) return { event: 'error', message };
  const { code, hint } = error;
  return { event: 'error', message, code, ...(hint !== undefined && { hint }) };
}

/** One table per image, and what all came to. */
export function convertSummary(target: string, result: ConvertedImage, milliseconds: number): string {
  const parts: string[] = [];
  for (const image of result.images ?? [result]) {
    const rows = image.layers.map((layer) => [
      String(layer.index),
      formatSize(layer.source.size),
      formatSize(layer.descriptor.size),
      String(layer.counts.entries),
      layer.reused ? `${layer.outcome}, reused` : layer.outcome,
      layer.descriptor.digest.slice(0, 19),
    ]);
    if (result.images !== undefined)
      parts.push(`${image.platform ?? ''} ${image.descriptor.digest.slice(0, 19)}\n`);
    parts.push(formatTable([['LAYER', 'BEFORE', 'AFTER', 'ENTRIES', 'TARGET', 'DIGEST'], ...rows]));
  }
  return (
    parts.join('') +
    `${target}@${result.descriptor.digest}\n` +
    `${formatSize(result.sourceSize)} became ${formatSize(result.size)} (${formatShare(result.size, result.sourceSize)}) in ${formatDuration(milliseconds)}\n`
  );
}

/** A plan, for people. */
export function planSummary(target: string, plans: readonly ImagePlan[]): string {
  const parts: string[] = [];
  for (const plan of plans) {
    const rows = plan.layers.map((layer) => [
      String(layer.index),
      layer.action,
      formatSize(layer.sourceSize),
      layer.unpackedSize === 0 ? '-' : `~${formatSize(layer.unpackedSize)}`,
      `${layer.action === 'convert' ? '~' : ''}${formatSize(layer.size)}`,
      layer.digest.slice(0, 19),
    ]);
    parts.push(
      `${plan.platform} ${plan.source.digest.slice(0, 19)} on a disk of ${formatSize(plan.virtualSize)}\n`,
      formatTable([['LAYER', 'ACTION', 'BEFORE', 'UNPACKED', 'AFTER', 'SOURCE'], ...rows]),
      `fetch ${formatSize(plan.fetch)}, push about ${formatSize(plan.upload)}, work files up to about ` +
        `${formatSize(plan.workSpace)}, about ${formatDuration(plan.seconds * 1000)} and the network\n`,
    );
  }
  return `${parts.join('')}Nothing was written to ${target}\n`;
}
