/** All read-only layers of an image become one. */
import { ConfigError } from '../blob/index.js';
import type { ImageConfig, ImageOpener } from '../image/index.js';
import { mergedSource } from '../lsmt/index.js';
import { commitSourceToFile, type CommitFileOptions, type CommitFileResult } from './commit-file.js';

/**
 * Merges the lowers of an image, local or remote, into the layer file `path`. A writable layer is left out.
 * @throws ImageError, FormatError, IoError
 */
export async function mergeToFile(
  opener: ImageOpener,
  config: ImageConfig,
  path: string,
  options: CommitFileOptions & { readonly source: string },
): Promise<CommitFileResult> {
  if (config.lowers.length === 0)
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot merge "${options.source}": it has no lowers`, {
      source: options.source,
    });
  const lowersOnly = { ...config, upper: { data: '', index: '', target: '', gzipIndex: '', vsize: 0 } };
  const image = await opener.openConfig(lowersOnly, {
    mode: 'read',
    name: options.source,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  try {
    return await commitSourceToFile(mergedSource(image.lowers.map(({ layer }) => layer)), path, options);
  } finally {
    await image.close();
  }
}
