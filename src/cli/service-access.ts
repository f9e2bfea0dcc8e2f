/** How commands reach the service, and start one where there is none. */
import { spawn } from 'node:child_process';
import { open, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { ConfigError, DeviceError, IoError, OverlaybdError, ioError, makeDirectory } from '../blob/index.js';
import { loadServiceConfig, type ServiceConfig } from '../image/index.js';
import { silentLogger } from '../log/index.js';
import { packageRoot } from '../native/index.js';
import { parseImageName } from '../oci/index.js';
import {
  AdminClient,
  NoServiceError,
  type AttachBody,
  type DeviceInfo,
  type TransportChoice,
} from '../service/index.js';
import { isImageName } from './artifacts.js';
import { serviceConfigPath } from './service-config-path.js';

/** Options of every command that talks to the service. */
export interface ServiceAccessOptions {
  readonly serviceConfig?: string;
  readonly stateDir: string;
}

/** Options of the commands that attach. */
export interface AttachOptions extends ServiceAccessOptions {
  readonly transport: TransportChoice;
  readonly name?: string;
  readonly plainHttp?: boolean;
}

/** Where the service keeps what it makes for devices, if nothing else is said. */
export const STATE_DIR = '/var/lib/overlaybd';
const START_TIMEOUT_MS = 60_000;
const POLL_MS = 50;
/** An ending service is met once, perhaps twice. */
const ATTEMPTS = 5;

/** Adds the options to a command. */
export function addServiceOptions(command: Command): Command {
  return command
    .option('--service-config <file>', 'overlaybd.json; its apiSocket is where the service listens')
    .option('--state-dir <dir>', 'files of devices attached by reference', STATE_DIR);
}

/** A service's address, and the configuration it was taken from. */
export interface ServiceAddress {
  readonly client: AdminClient;
  readonly config: ServiceConfig;
  readonly configPath: string;
  readonly runDir: string;
}

/** The service that the options mean; whether it runs is not asked. @throws ConfigError, IoError */
export async function serviceAddress(options: ServiceAccessOptions): Promise<ServiceAddress> {
  const configPath = await serviceConfigPath(options.serviceConfig);
  const config = await loadServiceConfig(configPath, silentLogger);
  return {
    client: new AdminClient(config.apiSocket),
    config,
    configPath: resolve(configPath),
    runDir: dirname(config.apiSocket),
  };
}

/** What to attach, from how the user named it. @throws ConfigError OBD_CONFIG_NOT_FOUND */
export async function attachBody(target: string, options: AttachOptions): Promise<AttachBody> {
  const common = {
    transport: options.transport,
    ...(options.name === undefined ? {} : { id: options.name }),
  };
  if (isImageName(target)) {
    const name = parseImageName(target);
    const image =
      name.kind === 'oci'
        ? `oci:${resolve(name.directory)}${name.tag === undefined ? '' : `:${name.tag}`}`
        : target;
    return { ...common, image, ...(options.plainHttp === true ? { plainHttp: true } : {}) };
  }
  const configPath = resolve(target);
  const found = await stat(configPath).catch(() => undefined);
  if (found?.isFile() !== true)
    throw new ConfigError('OBD_CONFIG_NOT_FOUND', `Cannot attach "${target}": no such file`, {
      source: target,
      hint: 'Images are named docker://HOST/REPOSITORY:TAG or oci:DIRECTORY[:TAG]',
    });
  return { ...common, configPath };
}

/**
 * Attaches, through a service that is started if there is none. One that is just ending is waited for.
 * @throws what the service answers, and what starting one throws.
 */
export async function attachThrough(
  address: ServiceAddress,
  options: ServiceAccessOptions,
  body: AttachBody,
): Promise<DeviceInfo> {
  for (let attempt = 1; ; attempt++) {
    await ensureService(address, options);
    try {
      return await address.client.attach(body);
    } catch (error) {
      const ending =
        error instanceof NoServiceError || (error instanceof OverlaybdError && error.code === 'OBD_ABORTED');
      if (!ending || attempt === ATTEMPTS) throw error;
      await sleep(POLL_MS * attempt);
    }
  }
}

/**
 * Makes sure that a service runs. Without one, starts one that ends with its last device, and says so on stderr.
 * @throws DeviceError with what the new service said if it does not start.
 */
async function ensureService(address: ServiceAddress, options: ServiceAccessOptions): Promise<void> {
  try {
    await address.client.info();
    return;
  } catch (error) {
    if (!(error instanceof NoServiceError)) throw error;
  }
  const log = address.config.logConfig.logPath || join(address.runDir, 'service.log');
  const pid = await startService(address, options, log);
  process.stderr.write(`Started a service for this device (process ${pid}, log ${log})\n`);
}

async function startService(
  address: ServiceAddress,
  options: ServiceAccessOptions,
  log: string,
): Promise<number> {
  let file;
  try {
    await makeDirectory(dirname(log), 0o700);
    file = await open(log, 'a+', 0o640);
  } catch (error) {
    const cause = ioError(error, `write "${log}"`, log);
    if (cause.code !== 'OBD_IO_PERMISSION') throw cause;
    throw new IoError('OBD_IO_PERMISSION', 'Cannot start a service for the device', {
      source: log,
      cause,
      hint: 'Devices need root; or give a --service-config with a logPath and an apiSocket of yours, and --transport nbd',
    });
  }
  try {
    const { size } = await file.stat();
    const child = spawn(
      process.execPath,
      [
        join(packageRoot, 'bin', 'obd'),
        'service',
        '--ephemeral',
        '--state-dir',
        options.stateDir,
        address.configPath,
      ],
      { detached: true, cwd: '/', stdio: ['ignore', file.fd, file.fd] },
    );
    const ended = (): boolean =>
      child.pid === undefined || child.exitCode !== null || child.signalCode !== null;
    child.on('error', () => undefined); // `ended` tells
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      try {
        // Another command may have been quicker; then its service is as good.
        const { pid } = await address.client.info();
        child.unref();
        return pid;
      } catch (error) {
        if (!(error instanceof NoServiceError)) throw error;
      }
      if (ended() || Date.now() > deadline) break;
      await sleep(POLL_MS);
    }
    if (!ended()) child.kill();
    child.unref();
    const { buffer, bytesRead } = await file.read(Buffer.alloc(8192), 0, 8192, size);
    const said = buffer.toString('utf8', 0, bytesRead).split('\n');
    const first = said.findIndex((line) => line.startsWith('Error: '));
    throw new DeviceError(
      'OBD_DEVICE_UNSUPPORTED',
      `The service does not start${ended() ? '' : ` within ${START_TIMEOUT_MS / 1000} s`}`,
      {
        hint: `Look at ${log}`,
        ...(first < 0
          ? {}
          : {
              cause: new Error(
                said
                  .slice(first)
                  .join('\n')
                  .trim()
                  .replace(/^Error: /, ''),
              ),
            }),
      },
    );
  } finally {
    await file.close();
  }
}
