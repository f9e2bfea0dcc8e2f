/** `obd bench attach`: many devices of one image, on a service of their own or on one that runs. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { attachTimes, type AttachOptions, type Row } from '../bench/index.js';
import { ConfigError } from '../blob/index.js';
import { TRANSPORT_CHOICES, type TransportChoice } from '../service/index.js';
import { parseNumber, type ReportFlags } from './bench-options.js';
import { attachBody, attachThrough, serviceAddress, type ServiceAccessOptions } from './service-access.js';

/** Flags of the command. */
export interface BenchAttachFlags extends ReportFlags {
  readonly devices: string;
  readonly idle: string;
  readonly rest: string;
  readonly transport: string;
  readonly serviceConfig?: string;
}

/** Attaches and takes away again; whatever happens, nothing stays attached. */
export async function benchAttach(path: string, flags: BenchAttachFlags): Promise<Row[]> {
  const devices = parseNumber(flags.devices, '--devices', 1, 10_000);
  const idleSeconds = parseNumber(flags.idle, '--idle', 0.1, 86400);
  const restSeconds = parseNumber(flags.rest, '--rest', 0, 86400);
  const transport = TRANSPORT_CHOICES.find((choice) => choice === flags.transport);
  if (transport === undefined)
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `--transport is "${flags.transport}", expected ${TRANSPORT_CHOICES.join(', ')}`,
    );
  const dir = await mkdtemp(join(tmpdir(), 'obd-bench-'));
  try {
    const serviceConfig = flags.serviceConfig ?? (await ownService(dir));
    return await measure({ serviceConfig, stateDir: join(dir, 'state') }, path, transport, {
      devices,
      idleSeconds,
      restSeconds,
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Configuration of a service that nobody else knows. */
async function ownService(dir: string): Promise<string> {
  const file = join(dir, 'overlaybd.json');
  await writeFile(
    file,
    JSON.stringify({
      apiSocket: join(dir, 'overlaybd.sock'),
      logConfig: { logLevel: 2, logPath: join(dir, 'log') },
      cacheConfig: { cacheType: 'file', cacheDir: join(dir, 'cache'), cacheSizeGB: 1 },
      enableAudit: false,
    }),
  );
  return file;
}

async function measure(
  access: ServiceAccessOptions,
  path: string,
  transport: TransportChoice,
  options: AttachOptions,
): Promise<Row[]> {
  const address = await serviceAddress(access);
  const body = await attachBody(resolve(path), { ...access, transport });
  return attachTimes(
    {
      attach: () => attachThrough(address, access, body),
      detach: async (id) => {
        await address.client.detach(id);
      },
      pid: async () => (await address.client.info()).pid,
    },
    options,
  );
}
