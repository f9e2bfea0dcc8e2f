import type { DiskRun } from './report-data.js';

/** What became of a stretch of the disk, for colours and legends. */
export type PieceState = 'rd' | 'rp' | 'rb' | 'rl' | 'fu' | 'pu' | 'du' | 'no';

/** In the order in which they are drawn and told. */
export const PIECE_STATES: Readonly<Record<PieceState, string>> = {
  rd: 'read, fetched for it',
  rp: 'read, prefetched',
  rb: 'read, downloaded before',
  rl: 'read from local disk',
  fu: 'fetched beside it, not read',
  pu: 'prefetched, not read',
  du: 'downloaded, not read',
  no: 'not touched',
};

/** The state of a run. */
export function stateOf({ read, cause }: Pick<DiskRun, 'read' | 'cause'>): PieceState {
  switch (cause) {
    case 'open':
    case 'read':
      return read ? 'rd' : 'fu';
    case 'prefetch':
      return read ? 'rp' : 'pu';
    case 'download':
      return read ? 'rb' : 'du';
    case 'local':
      return read ? 'rl' : 'no';
  }
}
