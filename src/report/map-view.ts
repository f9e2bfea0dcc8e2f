/**
 * The map: all bytes of the disk that some layer has, in the order of the disk, as a grid of cells. A cell is divided by
 * what became of its bytes, or by the layers they belong to; holes of the disk are left out.
 */
import { eachRun } from './disk-map.js';
import type { FileStretch } from './disk-files.js';
import { bytes, shortDigest } from './format.js';
import { html, type Content, type Html } from './html.js';
import { PIECE_STATES, stateOf, type PieceState } from './piece-state.js';
import type { DiskRun, Report } from './report-data.js';

const COLUMNS = 96;
const MAX_ROWS = 36;
const CELL = 11;
const PITCH = 12;
const LEFT = 66;
const STEP = 4096;
/** Colours of layers; more layers use them again. */
export const LAYER_COLOURS = 10;
/** A byte that was read shall be seen. */
const LEAST = 1.5;
/** Untouched stretches of less are drawn whole. */
const LONG = 16 << 20;
/** Files named in a cell's tooltip. */
const FILES_TOLD = 3;

interface Cell {
  readonly offset: number;
  readonly states: Map<PieceState, number>;
  readonly layers: Map<number, number>;
  readonly files: Map<string, number>;
}

function add<K>(map: Map<K, number>, key: K, amount: number): void {
  map.set(key, (map.get(key) ?? 0) + amount);
}

function cellsOf(
  runs: readonly DiskRun[],
  stretches: readonly FileStretch[],
): { cells: Cell[]; bytesEach: number } {
  const total = runs.reduce((sum, { length }) => sum + length, 0);
  const bytesEach = Math.max(STEP, Math.ceil(total / (COLUMNS * MAX_ROWS) / STEP) * STEP);
  const cells: Cell[] = [];
  // Where each run begins among the bytes that are there at all.
  const places: number[] = [];
  let place = 0;
  const each = (
    from: number,
    length: number,
    visit: (cell: Cell | undefined, amount: number) => void,
  ): void => {
    for (let at = from; at < from + length;) {
      const number = Math.floor(at / bytesEach);
      const end = Math.min(from + length, (number + 1) * bytesEach);
      visit(cells[number], end - at);
      at = end;
    }
  };
  for (const run of runs) {
    places.push(place);
    for (let at = place; at < place + run.length;) {
      const number = Math.floor(at / bytesEach);
      cells[number] ??= {
        offset: run.offset + at - place,
        states: new Map(),
        layers: new Map(),
        files: new Map(),
      };
      at = (number + 1) * bytesEach;
    }
    const state = stateOf(run);
    each(place, run.length, (cell, amount) => {
      if (cell === undefined) return;
      add(cell.states, state, amount);
      add(cell.layers, run.layer, amount);
    });
    place += run.length;
  }
  for (const { offset, length, path } of stretches)
    eachRun(runs, offset, offset + length, (run, number, from, to) => {
      each((places[number] ?? 0) + from - run.offset, to - from, (cell, amount) => {
        if (cell !== undefined) add(cell.files, path, amount);
      });
    });
  return { cells, bytesEach };
}

/**
 * Untouched stretches that would take much of the map (a journal, say) are drawn shorter.
 * @returns also the bytes that are not drawn.
 */
function shorten(runs: readonly DiskRun[]): { shown: DiskRun[]; left: number } {
  const total = runs.reduce((sum, { length }) => sum + length, 0);
  const limit = Math.max(LONG, total / 8);
  const isLong = (run: DiskRun): boolean => run.length > limit && stateOf(run) === 'no';
  const others = runs.reduce((sum, run) => sum + (isLong(run) ? 0 : run.length), 0);
  const length = Math.max(LONG / 16, Math.ceil(others / 24 / STEP) * STEP);
  const shown = runs.map((run) => (isLong(run) ? { ...run, length: Math.min(run.length, length) } : run));
  return { shown, left: total - shown.reduce((sum, run) => sum + run.length, 0) };
}

/** Paths by class: a cell's slices side by side, as wide as their share. */
class Slices {
  readonly #paths = new Map<string, string[]>();

  draw(x: number, y: number, parts: readonly (readonly [className: string, share: number])[]): void {
    const wanted = parts.map(
      ([name, share]) => [name, share > 0 ? Math.max(LEAST, share * CELL) : 0] as const,
    );
    const sum = wanted.reduce((total, [, width]) => total + width, 0) || 1;
    let at = x;
    for (const [name, width] of wanted) {
      const own = Number(((width * CELL) / sum).toFixed(1));
      if (own === 0) continue;
      const path = this.#paths.get(name) ?? [];
      path.push(`M${at.toFixed(1)} ${y}h${own}v${CELL}h-${own}z`);
      this.#paths.set(name, path);
      at += own;
    }
  }

  html(): Html[] {
    return [...this.#paths].map(([name, path]) => html`<path class="${name}" d="${path.join('')}" />`);
  }
}

function tooltip(cell: Cell, report: Report): string {
  const lines = [`at ${bytes(cell.offset)} of the disk`];
  for (const [layer, amount] of cell.layers)
    lines.push(`layer ${layer} (${shortDigest(report.layers[layer]?.digest ?? '')}): ${bytes(amount)}`);
  for (const [state, amount] of cell.states) lines.push(`${PIECE_STATES[state]}: ${bytes(amount)}`);
  const files = [...cell.files].sort((a, b) => b[1] - a[1]);
  for (const [path] of files.slice(0, FILES_TOLD)) lines.push(path);
  if (files.length > FILES_TOLD) lines.push(`and ${files.length - FILES_TOLD} more files`);
  return lines.join('\n');
}

function legend(entries: readonly (readonly [className: string, text: Content])[]): Html {
  return html`<ul class="legend">
    ${entries.map(
      ([name, text]) =>
        html`<li>
          <svg width="12" height="12" aria-hidden="true">
            <rect class="${name}" width="12" height="12" rx="2" />
          </svg>
          ${text}
        </li>`,
    )}
  </ul>`;
}

/** The map with its legend. */
export function mapView(report: Report, stretches: readonly FileStretch[]): Html {
  if (report.map.length === 0)
    return html`<p class="note">There is no map: ${report.imageUnavailable ?? 'no layer has any data'}.</p>`;
  const { shown, left } = shorten(report.map);
  const { cells, bytesEach } = cellsOf(shown, stretches);
  const rows = Math.ceil(cells.length / COLUMNS);
  const states = new Slices();
  const layers = new Slices();
  const overlay: Html[] = [];
  const labels: Html[] = [];
  const totals = new Map<PieceState, number>();
  for (const run of report.map) add(totals, stateOf(run), run.length);
  const order = Object.keys(PIECE_STATES) as PieceState[];
  cells.forEach((cell, i) => {
    const x = LEFT + (i % COLUMNS) * PITCH;
    const y = Math.floor(i / COLUMNS) * PITCH;
    const whole = [...cell.states.values()].reduce((a, b) => a + b, 0);
    if (i % (COLUMNS * 4) === 0)
      labels.push(html`<text x="${LEFT - 8}" y="${y + 9}" class="axis end">${bytes(cell.offset)}</text>`);
    states.draw(
      x,
      y,
      order.map((state) => [state, (cell.states.get(state) ?? 0) / whole] as const),
    );
    const untouched = (cell.states.get('no') ?? 0) === whole;
    layers.draw(
      x,
      y,
      [...cell.layers]
        .sort((a, b) => a[0] - b[0])
        .map(
          ([layer, amount]) =>
            [`l${layer % LAYER_COLOURS}${untouched ? ' faint' : ''}`, amount / whole] as const,
        ),
    );
    overlay.push(
      html`<rect x="${x}" y="${y}" width="${CELL}" height="${CELL}"
        ><title>${tooltip(cell, report)}</title></rect
      >`,
    );
  });
  const present = order.filter((state) => totals.has(state));
  return html`<div class="map">
      <input type="radio" name="map" id="map-state" checked /><label for="map-state">by what happened</label>
      <input type="radio" name="map" id="map-layer" /><label for="map-layer">by layer</label>
      <div class="by-state">
        ${legend(present.map((state) => [state, html`${PIECE_STATES[state]} <b>${bytes(totals.get(state) ?? 0)}</b>`]))}
      </div>
      <div class="by-layer">
        ${legend(
          report.layers.map(({ number, digest, diskBytes }) => [
            `l${number % LAYER_COLOURS}`,
            html`${number}: ${shortDigest(digest)} <b>${bytes(diskBytes)}</b>`,
          ]),
        )}
      </div>
      <svg
        viewBox="0 0 ${LEFT + COLUMNS * PITCH} ${rows * PITCH}"
        role="img"
        aria-label="Map of the disk. The tables below say the same in numbers."
      >
        ${labels}
        <g class="by-state">${states.html()}</g>
        <g class="by-layer">${layers.html()}</g>
        <g class="over">${overlay}</g>
      </svg>
    </div>
    <p class="note">
      Each cell is ${bytes(bytesEach)} of the disk, from the top left; holes are left
      out${left === 0 ? '' : `, and so is the most of long stretches that were not touched (${bytes(left)})`}.
      A cell is divided by share; point at one for its layer and files.
    </p>`;
}
