/**
 * A time axis on which idle stretches are cut short: a device is attached, and minutes later somebody mounts it. Busy
 * stretches share the width by their length; a cut has a width of its own.
 */

/** Most cuts: with more, longer stretches are left as they are. */
const MAX_CUTS = 6;
const FIRST_IDLE_MS = 1000;
const CUT_WIDTH = 34;
const MIN_WIDTH = 24;

/** A stretch of the axis. */
export interface AxisPart {
  readonly from: number;
  readonly to: number;
  readonly x: number;
  readonly width: number;
  /** Nothing happened here. */
  readonly idle: boolean;
}

/** See the head of this file. */
export class TimeAxis {
  readonly parts: readonly AxisPart[];

  /** @param busy stretches of time in which something happened, any order; a moment has no length. */
  constructor(busy: readonly { readonly from: number; readonly to: number }[], left: number, width: number) {
    const sorted = [...busy].sort((a, b) => a.from - b.from);
    let spans = merge(sorted, FIRST_IDLE_MS);
    for (let idle = FIRST_IDLE_MS * 2; spans.length > MAX_CUTS + 1; idle *= 2) spans = merge(sorted, idle);
    if (spans.length === 0) spans = [{ from: 0, to: 1 }];
    const free = width - CUT_WIDTH * (spans.length - 1) - MIN_WIDTH * spans.length;
    const total = spans.reduce((sum, { from, to }) => sum + to - from, 0) || 1;
    const parts: AxisPart[] = [];
    let x = left;
    spans.forEach(({ from, to }, i) => {
      const before = spans[i - 1];
      if (before !== undefined) {
        parts.push({ from: before.to, to: from, x, width: CUT_WIDTH, idle: true });
        x += CUT_WIDTH;
      }
      const own = MIN_WIDTH + (free * (to - from)) / total;
      parts.push({ from, to, x, width: own, idle: false });
      x += own;
    });
    this.parts = parts;
  }

  /** Where a moment is; moments outside lie at the ends. */
  x(time: number): number {
    const part = this.parts.find(({ to }) => time <= to) ?? this.parts.at(-1);
    if (part === undefined) return 0;
    const length = part.to - part.from;
    const share = length === 0 ? 0 : Math.min(1, Math.max(0, (time - part.from) / length));
    return part.x + share * part.width;
  }

  /** Round moments to be written below the axis, at least `distance` apart. */
  ticks(distance: number): number[] {
    const ticks: number[] = [];
    for (const { from, to, width, idle } of this.parts) {
      if (idle) continue;
      const step = niceStep(((to - from) * distance) / width);
      for (let time = Math.ceil(from / step) * step; time <= to && ticks.length < 100; time += step) {
        const last = ticks.at(-1);
        if (last === undefined || this.x(time) - this.x(last) >= distance * 0.8) ticks.push(time);
      }
    }
    return ticks;
  }
}

function merge(
  sorted: readonly { readonly from: number; readonly to: number }[],
  idle: number,
): { from: number; to: number }[] {
  const spans: { from: number; to: number }[] = [];
  for (const { from, to } of sorted) {
    const last = spans.at(-1);
    if (last !== undefined && from - last.to <= idle) last.to = Math.max(last.to, to);
    else spans.push({ from, to });
  }
  return spans;
}

/** The next of 1, 2, 5, 10, ... that is at least `least`. */
export function niceStep(least: number): number {
  if (!(least > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(least));
  return (([1, 2, 5, 10] as const).find((factor) => factor * power >= least * 0.999) ?? 10) * power;
}
