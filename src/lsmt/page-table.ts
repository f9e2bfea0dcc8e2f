/**
 * Where a writable layer has each page of its disk, in shared memory: what an I/O worker needs to read a disk that is
 * being written to without asking (src/image/planner.ts).
 *
 * One 32-bit number per 4 KiB page. Writes of file systems are whole pages, so that nearly every page is one of: not in
 * this layer, zeroes, or eight sectors in a row of the layer's file. Anything else is {@link Page.MIXED} until it is
 * overwritten whole, and is read the general way. The map (segment-map.ts) writes, in the moment in which it changes
 * itself: after the data is in the file, before the writer hears of it. A reader that looks while a page changes sees it
 * as it was or as it is.
 *
 * Memory: 1/1024 of the disk's size, of which only what is touched is real.
 */

/** Sectors of a page. */
export const PAGE_SECTORS = 8;

/** Numbers that are no sector: a layer's file begins with a header of eight. */
export const Page = {
  /** The layer says nothing: see below it. */
  BELOW: 0,
  /** Part of this, part of that. */
  MIXED: 1,
  ZEROES: 2,
} as const;

/** Largest disk that gets a table: 512 MiB of addresses. */
const MAX_SECTORS = 2 ** 30;
const MAX_SECTOR = 2 ** 32;

/** The table's owner's side. */
export class PageTable {
  readonly buffer: SharedArrayBuffer;
  readonly #pages: Uint32Array;
  readonly #sectors: number;

  private constructor(sectors: number) {
    this.buffer = new SharedArrayBuffer(Math.ceil(sectors / PAGE_SECTORS) * 4);
    this.#pages = new Uint32Array(this.buffer);
    this.#sectors = sectors;
  }

  /** An empty table of a disk; undefined if the disk is too large for one. */
  static create(sectors: number): PageTable | undefined {
    return sectors > MAX_SECTORS ? undefined : new PageTable(sectors);
  }

  /**
   * Says of [start, end), in sectors of the disk, that it lies in the file from sector `place` on; or that it is
   * `Page.ZEROES` or `Page.BELOW`. What lies beyond the disk is passed over.
   */
  set(start: number, end: number, place: number): void {
    const stop = Math.min(end, this.#sectors);
    const isData = place >= PAGE_SECTORS;
    for (let page = Math.floor(start / PAGE_SECTORS); page * PAGE_SECTORS < stop; page++) {
      const first = page * PAGE_SECTORS;
      const last = Math.min(first + PAGE_SECTORS, this.#sectors);
      const at = isData ? place + (first - start) : place;
      // A page changed in part stays what it is only if it was that before: data at the place that the rest implies.
      const whole = start <= first && last <= stop;
      const valid = !isData || (at >= PAGE_SECTORS && at < MAX_SECTOR);
      this.#pages[page] = valid && (whole || this.#pages[page] === at) ? at : Page.MIXED;
    }
  }
}
