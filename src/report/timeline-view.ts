/** The start in time: bytes read and fetched, where on the disk reads went, and each request to the registry. */
import { bytes, duration, shortDigest } from './format.js';
import { html, type Html } from './html.js';
import { stateOf } from './piece-state.js';
import type { Report, RequestEvent } from './report-data.js';
import { niceStep, TimeAxis } from './time-axis.js';

const LEFT = 66;
const WIDTH = 1152;
const CURVES = { top: 6, height: 170 };
const PLACES = { top: 200, height: 110 };
const REQUESTS = { top: 334, lane: 9 };
/** Requests side by side that are told apart; the registry client has no more connections than that for long. */
const LANES = 14;

interface Step {
  readonly at: number;
  readonly total: number;
}

function cumulate(events: readonly { readonly at: number; readonly length: number }[]): Step[] {
  let total = 0;
  return [...events].sort((a, b) => a.at - b.at).map(({ at, length }) => ({ at, total: (total += length) }));
}

/** Byte marks of round size, at most five. */
function byteTicks(most: number): number[] {
  const unit = 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(1, most)) / 10));
  const step = niceStep(most / unit / 4) * unit;
  const ticks: number[] = [];
  for (let tick = step; tick <= most && ticks.length < 8; tick += step) ticks.push(tick);
  return ticks;
}

function curve(steps: readonly Step[], axis: TimeAxis, most: number, end: number): string {
  const y = (total: number): string =>
    (CURVES.top + CURVES.height * (1 - total / Math.max(1, most))).toFixed(1);
  const path = [`M${LEFT} ${y(0)}`];
  for (const { at, total } of steps) path.push(`H${axis.x(at).toFixed(1)}V${y(total)}`);
  path.push(`H${end.toFixed(1)}`);
  return path.join('');
}

/** Gives each request the first lane that is free, or the one that is free soonest. */
function lanesOf(
  requests: readonly RequestEvent[],
  axis: TimeAxis,
): { request: RequestEvent; lane: number }[] {
  const free: number[] = [];
  return [...requests]
    .sort((a, b) => a.at - b.at)
    .map((request) => {
      const x = axis.x(request.at);
      let lane = free.findIndex((until) => until <= x);
      if (lane < 0) lane = free.length < LANES ? free.length : free.indexOf(Math.min(...free));
      free[lane] = Math.max(axis.x(request.at + request.milliseconds), x + 2) + 0.5;
      return { request, lane };
    });
}

/** Where a place of the disk is among the bytes that were read or fetched, from 0 to 1. */
function placer(report: Report): (offset: number) => number {
  const runs = report.map.filter((run) => stateOf(run) !== 'no');
  const starts: number[] = [];
  let total = 0;
  for (const { length } of runs) {
    starts.push(total);
    total += length;
  }
  const size = Math.max(1, report.device.size ?? 1);
  if (total === 0) return (offset) => offset / size;
  return (offset) => {
    let low = 0;
    let high = runs.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((runs[middle]?.offset ?? 0) <= offset) low = middle + 1;
      else high = middle;
    }
    const run = runs[low - 1];
    return run === undefined
      ? 0
      : ((starts[low - 1] ?? 0) + Math.min(offset - run.offset, run.length)) / total;
  };
}

function dots(report: Report, axis: TimeAxis, local: boolean): string {
  const place = placer(report);
  return report.reads
    .filter((read) => read.local === local)
    .map(({ at, offset }) => {
      const y = PLACES.top + PLACES.height * place(offset);
      return `M${axis.x(at).toFixed(1)} ${y.toFixed(1)}h0`;
    })
    .join('');
}

/** The timeline, with what it shows in words. */
export function timelineView(report: Report): Html {
  const { reads, requests } = report;
  if (reads.length === 0 && requests.length === 0)
    return html`<p class="note">Nothing was read, and nothing was fetched.</p>`;
  const axis = new TimeAxis(
    [
      ...reads.map(({ at }) => ({ from: at, to: at })),
      ...requests.map(({ at, milliseconds }) => ({ from: at, to: at + milliseconds })),
    ],
    LEFT,
    WIDTH,
  );
  const read = cumulate(reads);
  const fetched = cumulate(
    requests.flatMap(({ at, milliseconds, length, ok }) => (ok ? [{ at: at + milliseconds, length }] : [])),
  );
  const most = Math.max(read.at(-1)?.total ?? 0, fetched.at(-1)?.total ?? 0, 1);
  const lanes = lanesOf(requests, axis);
  const laneCount = lanes.reduce((count, { lane }) => Math.max(count, lane + 1), 0);
  const bottom =
    requests.length === 0 ? PLACES.top + PLACES.height : REQUESTS.top + laneCount * REQUESTS.lane;
  const end = LEFT + WIDTH;
  const y = (total: number): number => CURVES.top + CURVES.height * (1 - total / most);
  return html`<ul class="legend">
      <li>
        <svg width="20" height="12" aria-hidden="true"><path class="line-fetched" d="M0 6h20" /></svg> fetched
        from the registry
      </li>
      <li>
        <svg width="20" height="12" aria-hidden="true"><path class="line-read" d="M0 6h20" /></svg> read by
        users of the device
      </li>
      <li>
        <svg width="12" height="12" aria-hidden="true"><path class="dot-wait" d="M6 6h0" /></svg> a read that
        waited for bytes
      </li>
      <li>
        <svg width="12" height="12" aria-hidden="true"><path class="dot-local" d="M6 6h0" /></svg> a read from
        local disk
      </li>
      ${[...new Set(requests.map(({ cause }) => cause))].map(
        (cause) =>
          html`<li>
            <svg width="12" height="12" aria-hidden="true">
              <rect class="c-${cause}" y="3" width="12" height="6" />
            </svg>
            request: ${cause}
          </li>`,
      )}
    </ul>
    <svg
      viewBox="0 0 ${end + 6} ${bottom + 24}"
      role="img"
      aria-label="Timeline: bytes read and fetched, places read, and requests to the registry. The tables below say the same in numbers."
    >
      ${axis.parts
        .filter(({ idle }) => idle)
        .map(
          ({ x, width, from, to }) =>
            html`<rect class="cut" x="${x}" y="0" width="${width}" height="${bottom}" /><text
                class="axis mid"
                x="${x + width / 2}"
                y="${CURVES.height / 2}"
                transform="rotate(-90 ${x + width / 2} ${CURVES.height / 2})"
                >idle ${duration(to - from)}</text
              >`,
        )}
      ${byteTicks(most).map((tick) => html`<path class="grid" d="M${LEFT} ${y(tick).toFixed(1)}H${end}" /><text class="axis end" x="${LEFT - 6}" y="${(y(tick) + 4).toFixed(1)}">${bytes(tick)}</text>`)}
      ${axis.ticks(90).map((tick) => html`<path class="grid" d="M${axis.x(tick).toFixed(1)} 0V${bottom}" /><text class="axis mid" x="${axis.x(tick).toFixed(1)}" y="${bottom + 16}">${tick === 0 ? '0' : duration(tick)}</text>`)}
      <path class="area-fetched" d="${curve(fetched, axis, most, end)}V${y(0)}H${LEFT}z" />
      <path class="line-fetched" d="${curve(fetched, axis, most, end)}" />
      <path class="line-read" d="${curve(read, axis, most, end)}" />
      <path class="base" d="M${LEFT} ${y(0)}H${end}" />
      <text class="axis end" x="${LEFT - 6}" y="${PLACES.top + 10}">disk start</text>
      <text class="axis end" x="${LEFT - 6}" y="${PLACES.top + PLACES.height}">disk end</text>
      <rect class="frame" x="${LEFT}" y="${PLACES.top}" width="${WIDTH}" height="${PLACES.height}" />
      <path class="dot-local" d="${dots(report, axis, true)}" />
      <path class="dot-wait" d="${dots(report, axis, false)}" />
      ${requests.length === 0 ? undefined : html`<text class="axis end" x="${LEFT - 6}" y="${REQUESTS.top + 8}">requests</text>`}
      ${lanes.map(({ request, lane }) => requestBar(request, lane, axis))}
    </svg>`;
}

function requestBar(request: RequestEvent, lane: number, axis: TimeAxis): Html {
  const x = axis.x(request.at);
  const width = Math.max(1.5, axis.x(request.at + request.milliseconds) - x);
  const title = [
    `${bytes(request.length)} at ${bytes(request.offset)} of ${request.layer === undefined ? '' : `layer ${request.layer}, `}${shortDigest(request.digest)}`,
    `${duration(request.milliseconds)} from ${duration(request.at)}, for: ${request.cause}${request.ok ? '' : ', failed'}`,
  ].join('\n');
  return html`<rect
    class="${request.ok ? `c-${request.cause}` : 'c-failed'}"
    x="${x.toFixed(1)}"
    y="${REQUESTS.top + lane * REQUESTS.lane}"
    width="${width.toFixed(1)}"
    height="${REQUESTS.lane - 2}"
    ><title>${title}</title></rect
  >`;
}
