/**
 * overlaybd.json, the service's configuration (docs/configuration.md). Keys are spelt as overlaybd spells them, defaults
 * are overlaybd's, each with its reason or origin there. What this program cannot do is said in a warning.
 */
import { z } from 'zod';
import { ConfigError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { checkJson, loadJson, parseJson, size, u32 } from './json-schema.js';

const text = (value: string): z.ZodDefault<z.ZodString> => z.string().default(value);
const number = (value: number): z.ZodDefault<z.ZodNumber> => u32().default(value);
const flag = (value: boolean): z.ZodDefault<z.ZodBoolean> => z.boolean().default(value);

/** The `download` block: in overlaybd.json, and per image in config.v1.json. */
export const downloadSchema = z.object({
  enable: flag(false),
  /** Seconds after the device is opened: first the container starts, then the rest is fetched. */
  delay: number(300),
  /** Up to that many seconds more, by chance, so that a fleet does not start at once. */
  delayExtra: number(30),
  /** Per device. */
  maxMBps: number(100),
  /** Attempts per layer. */
  tryCnt: number(5),
  blockSize: number(262144),
});

/** The `ioPolicy` block, ours: in overlaybd.json, and per image in config.v1.json. */
export const ioPolicySchema = z.object({
  /** Seconds for which I/O that fails is repeated; 0: it fails at once. At most a day. */
  retry: u32().max(86400).default(600),
  /** And then: its users get I/O errors, or wait until the cause ends or somebody aborts. */
  then: z.enum(['error', 'hold']).default('error'),
});

const schema = z.object({
  registryCacheDir: text('/opt/overlaybd/registry_cache'),
  registryCacheSizeGB: number(4),
  cacheType: text('file'),
  cacheConfig: z
    .object({
      cacheType: text(''),
      cacheDir: text('/opt/overlaybd/registry_cache'),
      cacheSizeGB: number(4),
      refillSize: number(262144),
      blockSize: number(65536),
    })
    .prefault({}),
  gzipCacheConfig: z
    .object({
      enable: flag(false),
      cacheDir: text('/opt/overlaybd/gzip_cache'),
      cacheSizeGB: number(4),
      refillSize: number(1048576),
    })
    .prefault({}),
  credentialFilePath: text('/opt/overlaybd/cred.json'),
  credentialConfig: z
    .object({
      mode: z.enum(['', 'file', 'http', 'https', 'uds']).default(''),
      path: text(''),
      /** Seconds. */
      timeout: number(1),
      client_cert_path: text(''),
      client_key_path: text(''),
      server_ca_path: text(''),
    })
    .prefault({}),
  ioEngine: u32().max(2).default(0),
  logLevel: number(1),
  logPath: text('/var/log/overlaybd.log'),
  logConfig: z
    .object({
      logLevel: number(1),
      logPath: text(''),
      logSizeMB: number(10),
      logRotateNum: number(3),
    })
    .prefault({}),
  // overlaybd's default is true. A line for each fetch is much for a log that few read: here it is asked for.
  enableAudit: flag(false),
  auditPath: text('/var/log/overlaybd-audit.log'),
  enableThread: flag(false),
  download: downloadSchema.prefault({}),
  p2pConfig: z
    .object({ enable: flag(false), address: text('http://localhost:9731/accelerator') })
    .prefault({}),
  exporterConfig: z
    .object({
      enable: flag(false),
      uriPrefix: text('/metrics'),
      port: u32().max(65535).default(9863),
      updateInterval: size().default(60000000),
      /** Ours: overlaybd binds all addresses, and scrapers of a fleet rely on it. */
      address: text('0.0.0.0'),
      /** Ours: overlaybd puts the name of a series into the label `node`; true: the host's name is there. */
      correctLabels: flag(false),
      /** Ours: latency histograms of each device too, not only of all together: about 200 lines each. */
      deviceHistograms: flag(false),
    })
    .prefault({}),
  registryFsVersion: text('v2'),
  prefetchConfig: z.object({ concurrency: u32().min(1).max(1024).default(16) }).prefault({}),
  certConfig: z.object({ certFile: text(''), keyFile: text('') }).prefault({}),
  userAgent: text(''),
  serviceConfig: z
    .object({
      enable: flag(false),
      address: text('http://127.0.0.1:9862'),
      /** Ours: the API asks nobody who they are, so an address that others can reach must be asked for. */
      allowRemote: flag(false),
    })
    .prefault({}),
  // Ours.
  /** What overlaybd does with every host (verify nothing) must be asked for, host by host. */
  registryConfig: z
    .object({
      /** Spoken to over plain HTTP. */
      plainHttpHosts: z.array(z.string()).default([]),
      /** Certificates not verified. */
      skipVerifyHosts: z.array(z.string()).default([]),
      /** Authorities to believe besides the system's: PEM files or directories. */
      caFiles: z.array(z.string()).default([]),
      /** Seconds that one request may take, by default 30; an answer may be silent for half of it, at most 15 s. */
      timeout: z.number().min(1).max(600).optional(),
    })
    .prefault({}),
  /** How a device gets to the kernel; `auto` takes TCMU where there is one, else FUSE with a loop device. */
  transport: z.enum(['auto', 'tcmu', 'fuse', 'nbd']).default('auto'),
  /** What a device does whose bytes cannot be had. */
  ioPolicy: ioPolicySchema.prefault({}),
  /** When the writable layer of a device in use gives back the space of what was overwritten. */
  compactionConfig: z
    .object({
      enable: flag(true),
      minDeadMB: number(256),
      deadPercent: u32().min(1).max(99).default(50),
      /** Per device; 0: no limit. */
      maxMBps: number(50),
    })
    .prefault({}),
  /** Where the service listens for `obd` and the snapshotter. */
  apiSocket: text('/run/overlaybd/overlaybd.sock'),
});

/**
 * overlaybd.json with every default filled in. The blocks `cacheConfig` and `logConfig` are the ones that count:
 * where a file uses the older single keys instead, their values stand in the blocks. `credentialFilePath` counts while
 * `credentialConfig.mode` is empty.
 */
export type ServiceConfig = z.output<typeof schema>;

/** What a device does whose bytes cannot be had. */
export type IoPolicyConfig = z.output<typeof ioPolicySchema>;

/** How images are fetched in the background. */
export type DownloadConfig = z.output<typeof downloadSchema>;

/** Where overlaybd.json is when nothing else is said. */
export const DEFAULT_SERVICE_CONFIG_PATH = '/etc/overlaybd/overlaybd.json';

/** Keys whose non-default values this program does not honour, and what it does instead. */
const UNSUPPORTED: readonly [key: string, differs: (config: ServiceConfig) => boolean, instead: string][] = [
  ['ioEngine', (c) => c.ioEngine !== 0, 'local files are read by a native executor of its own'],
  ['enableThread', (c) => c.enableThread, 'devices are always served by worker threads'],
  ['registryFsVersion', (c) => c.registryFsVersion !== 'v2', 'the registry is read as with "v2"'],
  ['cacheConfig.cacheType', (c) => c.cacheConfig.cacheType === 'ocf', 'the "file" cache is used'],
];

/** Reads overlaybd.json. @throws IoError, ConfigError */
export async function loadServiceConfig(path: string, log: Logger): Promise<ServiceConfig> {
  return resolveLegacy(await loadJson(schema, path, log), path, log);
}

/** Parses the text of an overlaybd.json; `source` names it in errors. @throws ConfigError */
export function parseServiceConfig(json: string, source: string, log: Logger): ServiceConfig {
  return resolveLegacy(parseJson(schema, json, source, log), source, log);
}

/** All defaults. */
export function defaultServiceConfig(log: Logger): ServiceConfig {
  return resolveLegacy(checkJson(schema, {}, 'defaults', log), 'defaults', log);
}

function resolveLegacy(config: ServiceConfig, source: string, log: Logger): ServiceConfig {
  const { cacheConfig, logConfig } = config;
  const resolved: ServiceConfig = {
    ...config,
    cacheConfig:
      cacheConfig.cacheType === ''
        ? {
            ...cacheConfig,
            cacheType: config.cacheType,
            cacheDir: config.registryCacheDir,
            cacheSizeGB: config.registryCacheSizeGB,
          }
        : cacheConfig,
    logConfig:
      logConfig.logPath === ''
        ? { ...logConfig, logLevel: config.logLevel, logPath: config.logPath }
        : logConfig,
  };
  const { refillSize } = resolved.cacheConfig;
  for (const [key, value] of [
    ['cacheConfig.refillSize', refillSize],
    ['gzipCacheConfig.refillSize', resolved.gzipCacheConfig.refillSize],
  ] as const)
    if (value < 4096 || 2 ** Math.round(Math.log2(value)) !== value)
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot use configuration "${source}": "${key}" is ${value}, expected a power of two of at least 4096`,
        { source, expected: 'a power of two', actual: value },
      );
  for (const [key, differs, instead] of UNSUPPORTED)
    if (differs(resolved)) log.warn({ source, key, instead }, 'Configuration key is not supported');
  return resolved;
}
