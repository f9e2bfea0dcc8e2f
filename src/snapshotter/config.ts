/** config.json of overlaybd-snapshotter (docs/snapshotter.md). */
import { isAbsolute } from 'node:path';
import { z } from 'zod';
import { ConfigError } from '../blob/index.js';
import { loadJson } from '../image/index.js';
import type { Logger } from '../log/index.js';
import { parseSize } from './space-limits.js';

/** Where the configuration is, if nothing else is said. */
export const DEFAULT_SNAPSHOTTER_CONFIG_PATH = '/etc/overlaybd-snapshotter/config.json';

const schema = z.object({
  /** All state. */
  root: z.string(),
  /** The socket. */
  address: z.string(),
  verbose: z.enum(['trace', 'debug', 'info', 'warn', 'warning', 'error', 'fatal', 'panic']).default('info'),
  logReportCaller: z.boolean().default(false),
  rwMode: z.enum(['overlayfs', 'dir', 'dev']).default('overlayfs'),
  /** Ours: what containers in mode `dev` get, a block device or a Unix socket. */
  devTransport: z.enum(['block', 'nbd']).default('block'),
  writableLayerType: z.enum(['append', 'sparse']).default('append'),
  /** Detach the device of an image when its last container goes. */
  autoRemoveDev: z.boolean().default(false),
  /** Leave the removal of directories to containerd's next garbage collection. */
  asyncRemove: z.boolean().default(false),
  mirrorRegistry: z.array(z.object({ host: z.string(), insecure: z.boolean().default(false) })).default([]),
  defaultFsType: z.string().default('ext4'),
  rootfsQuota: z.string().default(''),
  tenant: z.number().int().min(-1).default(-1),
  turboFsType: z.array(z.string()).default([]),
  runtimeType: z.enum(['containerd', 'docker']).default('containerd'),
  exporterConfig: z
    .object({
      enable: z.boolean().default(false),
      uriPrefix: z.string().default('/metrics'),
      port: z.number().int().min(0).max(65535).default(9863),
      /** Ours: the reference binds all addresses. */
      address: z.string().default('0.0.0.0'),
    })
    .prefault({}),
  /** Ours: overlaybd.json of the service, empty for the usual place; its `apiSocket` is where devices are asked for. */
  serviceConfig: z.string().default(''),
  /** Ours: seconds that a device may take to appear, registry and all. */
  attachTimeout: z.number().min(1).max(3600).default(60),
});

/** config.json, checked and complete. */
export type SnapshotterConfig = Readonly<z.output<typeof schema>>;

/** sockaddr_un has 108 bytes. */
const MAX_SOCKET_PATH = 107;

/** Reads the configuration. What is valid but not done is said in the log. @throws ConfigError, IoError */
export async function loadSnapshotterConfig(path: string, log: Logger): Promise<SnapshotterConfig> {
  const config = await loadJson(schema, path, log);
  const fail = (what: string, hint?: string): never => {
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot use configuration "${path}": ${what}`, {
      source: path,
      ...(hint === undefined ? {} : { hint }),
    });
  };
  for (const key of ['root', 'address'] as const)
    if (!isAbsolute(config[key])) fail(`"${key}" is "${config[key]}", expected an absolute path`);
  if (/[:,\\\n]/.test(config.root))
    fail(
      `"root" is "${config.root}", expected no colon, comma, backslash or line break`,
      'overlayfs cannot take them',
    );
  if (Buffer.byteLength(config.address) > MAX_SOCKET_PATH)
    fail(`"address" has more than ${MAX_SOCKET_PATH} bytes, which is the most a socket's path can have`);
  if (config.rootfsQuota !== '' && parseSize(config.rootfsQuota) === undefined)
    fail(`"rootfsQuota" is ${JSON.stringify(config.rootfsQuota)}, expected a size such as "20g"`);
  return config;
}
