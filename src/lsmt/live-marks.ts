import { HEADER_SECTORS } from './format.js';

/** Most bytes of marks: 8 MiB, a bit for each sector of a file of 32 GiB. Larger files are marked more coarsely. */
const MAX_MARKS = 8 << 20;

/** Which grains of an append layer's data file hold anything live: a bit each, over [header, end). */
export class LiveMarks {
  readonly #bits: Uint8Array;
  /** Sectors of one grain. */
  readonly #grain: number;
  readonly #end: number;
  readonly #grains: number;
  #liveGrains = 0;

  /** @param end sector after the last that is looked at. */
  constructor(end: number, maxBytes = MAX_MARKS) {
    let grain = 1;
    while ((end - HEADER_SECTORS) / grain / 8 > maxBytes) grain *= 2;
    this.#grain = grain;
    this.#end = end;
    this.#grains = Math.ceil(Math.max(end - HEADER_SECTORS, 0) / grain);
    this.#bits = new Uint8Array(Math.ceil(this.#grains / 8));
  }

  /** Sectors [start, start + sectors) of the file are live; what lies beyond the end is passed over. */
  mark(start: number, sectors: number): void {
    const last = Math.min(start + sectors, this.#end) - 1;
    if (last < start) return;
    const from = Math.floor((start - HEADER_SECTORS) / this.#grain);
    const to = Math.floor((last - HEADER_SECTORS) / this.#grain);
    for (let g = from; g <= to; g++) {
      if (this.#live(g)) continue;
      this.#bits[g >> 3] = (this.#bits[g >> 3] ?? 0) | (1 << (g & 7));
      this.#liveGrains++;
    }
  }

  /**
   * The first sector for which what is live from it on fits into what is dead before it: everything live, packed, ends
   * there.
   */
  cut(): number {
    return Math.min(HEADER_SECTORS + this.#liveGrains * this.#grain, this.#end);
  }

  /** The dead runs before sector `limit`, as they lie. */
  *deadRuns(limit: number): Generator<{ start: number; sectors: number }, undefined> {
    const grains = Math.min(this.#grains, Math.floor((limit - HEADER_SECTORS) / this.#grain));
    for (let g = 0; g < grains; g++) {
      if (this.#live(g)) continue;
      const first = g;
      while (g + 1 < grains && !this.#live(g + 1)) g++;
      yield { start: HEADER_SECTORS + first * this.#grain, sectors: (g + 1 - first) * this.#grain };
    }
  }

  #live(grain: number): boolean {
    return ((this.#bits[grain >> 3] ?? 0) & (1 << (grain & 7))) !== 0;
  }
}
