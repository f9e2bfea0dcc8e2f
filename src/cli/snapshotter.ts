/** `obd snapshotter`, and `overlaybd-snapshotter`: the containerd snapshotter in the foreground, until SIGTERM. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { DeviceError, ioError, makeDirectory } from '../blob/index.js';
import { loadServiceConfig } from '../image/index.js';
import { makeLogger, type Logger, type LogLevel } from '../log/index.js';
import { Exporter, metricsText, processMetrics } from '../metrics/index.js';
import { FileLock, lockFile, setProjectQuota } from '../native/index.js';
import { AdminClient } from '../service/index.js';
import {
  DEFAULT_SNAPSHOTTER_CONFIG_PATH,
  GrpcMetrics,
  SnapshotsServer,
  Snapshotter,
  loadSnapshotterConfig,
  type SnapshotterConfig,
} from '../snapshotter/index.js';
import { runCommand } from './program.js';
import { serviceConfigPath } from './service-config-path.js';
import { ServiceDeviceHost } from './snapshot-devices.js';
import { layerTools } from './snapshot-layers.js';

/** Adds `snapshotter` to the program. */
export function addSnapshotterCommand(program: Command): void {
  configure(program.command('snapshotter'));
}

function configure(command: Command): Command {
  return command
    .description("Serve containerd's snapshots until SIGTERM.")
    .argument('[config]', 'config.json', DEFAULT_SNAPSHOTTER_CONFIG_PATH)
    .addHelpText('after', '\nExample:\n  overlaybd-snapshotter /etc/overlaybd-snapshotter/config.json\n')
    .action(snapshotterCommand);
}

/** Entry point of bin/overlaybd-snapshotter. */
export async function main(argv: readonly string[]): Promise<void> {
  await runCommand(configure(new Command('overlaybd-snapshotter').showHelpAfterError('(see --help)')), argv);
}

/** The reference's level names that ours lack. */
const LEVELS: Readonly<Record<string, LogLevel>> = { warning: 'warn', fatal: 'error', panic: 'error' };

function openLog({ verbose }: SnapshotterConfig): Logger {
  return makeLogger(LEVELS[verbose] ?? (verbose as LogLevel));
}

async function snapshotterCommand(configArgument: string): Promise<void> {
  // Its log is stderr, where there is nothing to reopen.
  process.on('SIGHUP', () => undefined);
  const configPath = resolve(configArgument);
  const config = await loadSnapshotterConfig(configPath, makeLogger('warn'));
  const log = openLog(config);
  const stopped = new Promise<string>((stop) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const)
      process.on(signal, () => {
        stop(signal);
      });
  });
  const lock = await lockRoot(config.root);
  try {
    const { apiSocket } = await loadServiceConfig(
      await serviceConfigPath(config.serviceConfig || undefined),
      log,
    );
    const client = new AdminClient(apiSocket);
    const host = new ServiceDeviceHost({ client, log, tenant: config.tenant });
    const metrics = new GrpcMetrics();
    const snapshotter = await Snapshotter.open({
      ...{ config, log, host, tools: layerTools },
      limitSpace: setProjectQuota,
    });
    try {
      const server = await SnapshotsServer.listen(config.address, snapshotter, log, metrics);
      const exporter = config.exporterConfig.enable
        ? new Exporter(config.exporterConfig, () => metricsText([metrics.write, processMetrics]), log)
        : undefined;
      log.info({ root: config.root, address: config.address }, 'snapshotter is ready');
      const reason = await stopped;
      log.info({ reason }, 'snapshotter is ending');
      await exporter?.close();
      await server.close();
    } finally {
      await snapshotter.close();
    }
  } finally {
    await lock.close();
  }
}

/** Keeps other snapshotters away from the root; the kernel lets go with the process. @throws DeviceError, IoError */
async function lockRoot(root: string): Promise<FileHandle> {
  const path = join(root, 'lock');
  let file: FileHandle;
  try {
    await makeDirectory(root, 0o700);
    file = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  } catch (error) {
    throw ioError(error, `open "${path}"`, path);
  }
  if (lockFile(file.fd, FileLock.EXCLUSIVE)) return file;
  await file.close();
  throw new DeviceError('OBD_DEVICE_BUSY', `Cannot start: another snapshotter has the root "${root}"`, {
    source: path,
    hint: 'One snapshotter per root; stop the other first',
  });
}
