/** Where a lower's bytes are: the first of the places that the configuration allows (service.md B.2). */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigError, ioError, isSystemError } from '../blob/index.js';
import { redactUrl } from '../log/index.js';
import type { ImageConfig, LowerConfig } from './image-config.js';

/** File names in a layer's directory, in the order in which they are looked for. */
const LOCAL_NAMES = ['overlaybd.commit', '.commit', 'overlaybd.sealed'];

/** A file, or a blob in a registry. */
export type LayerSource =
  { readonly kind: 'file'; readonly path: string } | ({ readonly kind: 'remote' } & RemoteRequest);

/** A blob in a registry, as an image's configuration names it. */
export interface RemoteRequest {
  readonly url: string;
  readonly digest: string;
  /** Bytes; 0 if the configuration does not say. */
  readonly size: number;
  /** The layer's own directory; empty if it has none. */
  readonly dir: string;
}

/** How errors name the source: what a URL may hold of credentials is left out. */
export function sourceName(source: LayerSource): string {
  return source.kind === 'file' ? source.path : redactUrl(source.url);
}

/**
 * Finds a lower.
 * @param what how errors name it: `layer 2`.
 * @throws ConfigError if it is neither here nor named in a registry; IoError if its directory cannot be looked into.
 */
export async function locateLower(
  lower: LowerConfig,
  config: ImageConfig,
  what: string,
): Promise<LayerSource> {
  if (lower.file !== '') return { kind: 'file', path: lower.file };
  if (lower.dir !== '')
    for (const name of LOCAL_NAMES) {
      const path = join(lower.dir, name);
      if (await isFile(path)) return { kind: 'file', path };
    }
  if (lower.digest === '')
    throw new ConfigError(
      'OBD_CONFIG_NOT_FOUND',
      `Cannot find ${what}: no ${LOCAL_NAMES.join(', ')} in "${lower.dir}", and no digest to fetch it by`,
      { source: lower.dir },
    );
  return { kind: 'remote', dir: lower.dir, size: lower.size, ...remote(config, lower.digest, what) };
}

/** The target of a TurboOCI layer; undefined if it has none. @throws ConfigError */
export function locateTarget(lower: LowerConfig, config: ImageConfig, what: string): LayerSource | undefined {
  if (lower.targetFile !== '') return { kind: 'file', path: lower.targetFile };
  if (lower.targetDigest === '') return undefined;
  return { kind: 'remote', dir: '', size: 0, ...remote(config, lower.targetDigest, what) };
}

function remote(config: ImageConfig, digest: string, what: string): { url: string; digest: string } {
  if (config.repoBlobUrl === '')
    throw new ConfigError(
      'OBD_CONFIG_NOT_FOUND',
      `Cannot fetch ${what} (${digest}): the configuration has no "repoBlobUrl"`,
      { source: digest },
    );
  return { url: `${config.repoBlobUrl.replace(/\/+$/, '')}/${digest}`, digest };
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch (error) {
    if (isSystemError(error) && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return false;
    throw ioError(error, `look for layer "${path}"`, path);
  }
}
