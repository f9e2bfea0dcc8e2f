import { ConfigError } from '../blob/index.js';
import { AppendLayer, openWritableLayer, type CompactResult, type UpperPaths } from '../lsmt/index.js';

/** What {@link compactFiles} may be told. */
export interface CompactFilesOptions {
  readonly signal?: AbortSignal;
  /** Told of what an operator should know. */
  readonly warn?: (message: string) => void;
  /** Told of each batch before it is copied, and of how much it can be in all. */
  readonly copying?: (bytes: number, atMost: number) => void;
}

/**
 * Compacts the writable layer of nobody's device, however little there is to gain.
 * @throws ConfigError for a sparse layer; FormatError, IoError (also if the layer is in use)
 */
export async function compactFiles(
  upper: UpperPaths,
  options: CompactFilesOptions = {},
): Promise<CompactResult> {
  const layer = await openWritableLayer(upper, { mode: 'write' });
  try {
    if (!(layer instanceof AppendLayer))
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot compact "${upper.data}": it is a sparse layer, which gives space back by itself`,
        { source: upper.data },
      );
    if (layer.recovery !== undefined) options.warn?.(layer.recovery.message);
    const { signal, copying } = options;
    return await layer.compact({
      ...(signal === undefined ? {} : { signal }),
      ...(copying === undefined
        ? {}
        : {
            pace: async (bytes) => {
              copying(bytes, layer.usage.live);
            },
          }),
    });
  } finally {
    await layer.close();
  }
}
