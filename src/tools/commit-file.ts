/** A writable layer, or one that was sealed in place, becomes a sealed layer file of its live data. */
import { FileBlob } from '../blob/index.js';
import {
  commitLayer,
  layerSource,
  openSealedLayer,
  openWritableLayer,
  unsealDataFile,
  type CommitOptions,
  type CommitResult,
  type CommitSource,
  type UpperPaths,
} from '../lsmt/index.js';
import { writeOutput, type OutputOptions } from './output-file.js';
import { pack, type PackedSize, type Packing } from './packing.js';

/** What is committed: the files of a writable layer, or a sealed one. */
export type CommitInput = { readonly upper: UpperPaths } | { readonly sealed: string };

/** How to commit. */
export interface CommitFileOptions extends CommitOptions, OutputOptions {
  readonly packing?: Packing;
  /** Called with where the finished bytes are, before they get their name; if it fails, they are discarded. */
  readonly beforeNaming?: (path: string) => Promise<void>;
  /** A writable layer may be in use by a device that nothing is written to. */
  readonly unlocked?: boolean;
  /** Told of what an operator should know. */
  readonly warn?: (message: string) => void;
}

/** What was written. */
export interface CommitFileResult extends CommitResult {
  readonly packed: PackedSize;
}

/**
 * Writes the layer file `path`. The same content gives the same bytes.
 * @throws FormatError, IoError
 */
export async function commitToFile(
  input: CommitInput,
  path: string,
  options: CommitFileOptions = {},
): Promise<CommitFileResult> {
  const { source, close } = await openInput(input, options);
  try {
    return await commitSourceToFile(source, path, options);
  } finally {
    await close();
  }
}

/** {@link commitToFile} of something that is open. */
export async function commitSourceToFile(
  source: CommitSource,
  path: string,
  options: CommitFileOptions,
): Promise<CommitFileResult> {
  return writeOutput(path, options, async (output) => {
    let result: CommitResult | undefined;
    const packed = await pack(output, options.packing ?? {}, async (sink) => {
      result = await commitLayer(source, sink, options);
    });
    await options.beforeNaming?.(output.temporaryPath);
    if (result === undefined) throw new TypeError('Unreachable: pack() runs what it is given');
    return { ...result, packed };
  });
}

async function openInput(
  input: CommitInput,
  options: CommitFileOptions,
): Promise<{ source: CommitSource; close: () => Promise<void> }> {
  if ('upper' in input) {
    const { unlocked = false } = options;
    const layer = await openWritableLayer(input.upper, { mode: 'read', unlocked });
    if ('recovery' in layer && layer.recovery !== undefined)
      options.warn?.(
        `"${input.upper.data}" was damaged, what is intact is committed: ${layer.recovery.message}`,
      );
    return { source: layer, close: () => layer.close() };
  }
  // Loaded when it is wanted: a layer that is being written needs nothing of images.
  const { unwrapLayer } = await import('../image/index.js');
  const stored = await FileBlob.open(input.sealed);
  try {
    const layer = await openSealedLayer((await unwrapLayer(stored)).blob);
    return { source: layerSource(layer), close: () => layer.close() };
  } catch (error) {
    await stored.close();
    throw error;
  }
}

/** Seals a writable layer where it lies: its data file is a read-only layer afterwards. @throws FormatError, IoError */
export async function sealInPlace(upper: UpperPaths): Promise<void> {
  const layer = await openWritableLayer(upper, { mode: 'write' });
  try {
    await layer.seal();
  } finally {
    await layer.close();
  }
}

/**
 * Makes a layer that {@link sealInPlace} sealed writable again; its index file must still be there.
 * @returns false if it was not sealed. @throws FormatError, IoError
 */
export function unsealInPlace(data: string): Promise<boolean> {
  return unsealDataFile(data);
}
