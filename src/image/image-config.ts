/** config.v1.json: which layers make up an image's device (docs/configuration.md). */
import { z } from 'zod';
import { ConfigError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { checkJson, loadJson, parseJson, size } from './json-schema.js';
import { downloadSchema, ioPolicySchema } from './service-config.js';

/** Most lowers: LSMT numbers files with 8 bits, and one is the upper's. */
const MAX_LOWERS = 256;

const text = (): z.ZodDefault<z.ZodString> => z.string().default('');

const lowerSchema = z.object({
  file: text(),
  dir: text(),
  digest: text(),
  /** Bytes of the remote blob; 0 = ask the registry. */
  size: size().default(0),
  targetFile: text(),
  targetDigest: text(),
  gzipIndex: text(),
});

const schema = z.object({
  repoBlobUrl: text(),
  lowers: z.array(lowerSchema).max(MAX_LOWERS).default([]),
  upper: z
    .object({
      index: text(),
      data: text(),
      target: text(),
      gzipIndex: text(),
      /** Written by the snapshotter, read by nobody. */
      vsize: z.number().default(0),
    })
    .prefault({}),
  resultFile: text(),
  /** Overrides the service's block for this device. */
  download: downloadSchema.optional(),
  /** Ours: overrides the service's block for this device. */
  ioPolicy: ioPolicySchema.optional(),
  accelerationLayer: z.boolean().default(false),
  recordTracePath: text(),
});

/** A read-only layer of an image's configuration; absent strings are empty. */
export type LowerConfig = Readonly<z.output<typeof lowerSchema>>;

/** config.v1.json; absent strings are empty, `lowers` is base-first. */
export type ImageConfig = Readonly<z.output<typeof schema>>;

/** Reads an image's configuration. @throws IoError, ConfigError */
export async function loadImageConfig(path: string, log: Logger): Promise<ImageConfig> {
  return check(await loadJson(schema, path, log), path, log);
}

/** Parses the text of an image's configuration; `source` names it in errors. @throws ConfigError */
export function parseImageConfig(json: string, source: string, log: Logger): ImageConfig {
  return check(parseJson(schema, json, source, log), source, log);
}

/** Checks a configuration made in this process, and fills in what is absent. @throws ConfigError */
export function makeImageConfig(value: z.input<typeof schema>, source: string, log: Logger): ImageConfig {
  return check(checkJson(schema, value, source, log), source, log);
}

function check(config: ImageConfig, source: string, log: Logger): ImageConfig {
  const fail = (what: string, hint?: string): never => {
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot use configuration "${source}": ${what}`, {
      source,
      ...(hint === undefined ? {} : { hint }),
    });
  };
  if (config.accelerationLayer && config.recordTracePath !== '')
    fail('"accelerationLayer" and "recordTracePath" are both set, expected at most one');
  for (const [i, lower] of config.lowers.entries()) {
    if (lower.file === '' && lower.dir === '' && lower.digest === '')
      fail(`"lowers[${i}]" has none of "file", "dir" and "digest"`);
    if (lower.gzipIndex !== '' && lower.targetFile === '' && lower.targetDigest === '')
      fail(`"lowers[${i}].gzipIndex" is set, but neither "targetFile" nor "targetDigest"`);
  }
  const { upper } = config;
  if (config.lowers.length === 0 && !hasUpper(config))
    fail('it has neither "lowers" nor a complete "upper"', 'An upper needs both "data" and "index"');
  if ((upper.data === '') !== (upper.index === ''))
    log.warn({ source }, 'Upper is not used: it needs both "data" and "index"');
  for (const key of ['target', 'gzipIndex'] as const)
    if (upper[key] !== '') log.warn({ source, key: `upper.${key}` }, 'Configuration key is not supported');
  return config;
}

/** True if the image has a writable layer. */
export function hasUpper(config: ImageConfig): boolean {
  return config.upper.data !== '' && config.upper.index !== '';
}
