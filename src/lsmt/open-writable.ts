import { AppendLayer } from './append-layer.js';
import { HeaderFlag } from './format.js';
import { RwFile } from './rw-file.js';
import { readRwHeader } from './rw-header.js';
import { SparseLayer } from './sparse-layer.js';
import type { OpenLayerOptions } from './writable-layer.js';

/** The files of an image's upper, as `overlaybd.json` names them. */
export interface UpperPaths {
  readonly data: string;
  /** Needed for an append layer only. */
  readonly index?: string;
}

/**
 * Opens a writable layer of either variant, as its data file's header says.
 * @throws FormatError, IoError; TypeError if an append layer is given without its index file.
 */
export async function openWritableLayer(
  paths: UpperPaths,
  options: OpenLayerOptions = {},
): Promise<AppendLayer | SparseLayer> {
  const file = await RwFile.open(paths.data, 'read');
  const header = await readRwHeader(file, 'data').finally(() => file.close());
  if ((header.flags & HeaderFlag.SPARSE) !== 0) return SparseLayer.open(paths.data, options);
  if (paths.index === undefined)
    throw new TypeError(`"${paths.data}" is an append layer: its index file must be named`);
  return AppendLayer.open({ data: paths.data, index: paths.index }, options);
}
