/** `obd service`, and `overlaybd-tcmu`: the service in the foreground, until SIGTERM. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Command, Option } from 'commander';
import { ConfigError, IoError, ioError } from '../blob/index.js';
import { DEFAULT_SERVICE_CONFIG_PATH, loadServiceConfig, type ServiceConfig } from '../image/index.js';
import { makeLogger, RotatingFile, type Logger, type LogLevel } from '../log/index.js';
import { keepHeapSmall, packageRoot, raiseFileLimit, setIoFlusher } from '../native/index.js';
import { Service, checkSocketPath } from '../service/index.js';
import { runCommand } from './program.js';
import { resolveImage } from './resolve-image.js';
import { STATE_DIR } from './service-access.js';

/** As systemd's unit has it: a descriptor per layer, per connection, three per device. */
const FILE_LIMIT = 1_048_576;
/** overlaybd.json numbers its levels. */
const LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error'];

interface ServiceFlags {
  readonly stateDir: string;
  readonly ephemeral?: boolean;
}

/** Adds `service` to the program. */
export function addServiceCommand(program: Command): void {
  configure(program.command('service'));
}

function configure(command: Command): Command {
  return command
    .description('Serve block devices until SIGTERM.')
    .argument('[config]', 'overlaybd.json', DEFAULT_SERVICE_CONFIG_PATH)
    .option('--state-dir <dir>', 'files of devices attached by reference', STATE_DIR)
    .addOption(new Option('--ephemeral', 'end with the last device').hideHelp())
    .addHelpText('after', '\nExample:\n  overlaybd-tcmu /etc/overlaybd/overlaybd.json\n')
    .action(serviceCommand);
}

/** Entry point of bin/overlaybd-tcmu. */
export async function main(argv: readonly string[]): Promise<void> {
  await runCommand(configure(new Command('overlaybd-tcmu').showHelpAfterError('(see --help)')), argv);
}

/** The log, and its file if it is not stderr. */
function openLog(config: ServiceConfig): { readonly log: Logger; readonly file: RotatingFile | undefined } {
  const { logLevel, logPath, logSizeMB, logRotateNum } = config.logConfig;
  const level = LEVELS[logLevel] ?? 'error';
  if (logPath === '') return { log: makeLogger(level), file: undefined };
  try {
    const maxBytes = Math.max(1, logSizeMB) * 2 ** 20;
    const file = new RotatingFile(logPath, { maxBytes, keep: logRotateNum });
    return { log: makeLogger(level, file), file };
  } catch (error) {
    throw ioError(error, `write log "${logPath}"`, logPath);
  }
}

async function serviceCommand(configArgument: string, flags: ServiceFlags): Promise<void> {
  surviveShutdown();
  keepHeapSmall();
  // Of the terminal that started it, or of who has renamed its logs; never its end.
  let reopenLogs = (): void => undefined;
  process.on('SIGHUP', () => {
    reopenLogs();
  });
  const configPath = resolve(configArgument);
  // What is wrong with the configuration is said where the operator looks first.
  const config = await loadServiceConfig(configPath, makeLogger('warn')).catch((error: unknown) => {
    if (!(error instanceof IoError) || error.code !== 'OBD_IO_NOT_FOUND') throw error;
    throw new ConfigError('OBD_CONFIG_NOT_FOUND', `Cannot find the configuration "${configPath}"`, {
      source: configPath,
      hint: `Copy ${join(packageRoot, 'config', 'overlaybd.json')} there, or name it on the command line`,
      cause: error,
    });
  });
  checkSocketPath(config.apiSocket);
  const { log, file } = openLog(config);
  const files = raiseFileLimit(FILE_LIMIT);
  if (files < FILE_LIMIT) log.info({ files, wanted: FILE_LIMIT }, 'limit of open files is lower than wanted');
  // Before the threads that serve are started.
  if (!setIoFlusher()) log.info({}, 'not marked as serving block devices: no privilege');
  const stopped = new Promise<string>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const)
      process.on(signal, () => {
        resolve(signal);
      });
  });
  const service = await Service.start({
    config,
    configPath,
    log,
    version: packageVersion(),
    stateDir: resolve(flags.stateDir),
    resolveImage,
    ephemeral: flags.ephemeral === true,
  });
  reopenLogs = () => {
    try {
      file?.reopen();
      service.reopenLogs();
      log.info({}, 'logs are reopened');
    } catch (error) {
      log.error({ err: error }, 'a log cannot be reopened; its lines go on into the file from before');
    }
  };
  const missing = service.unsupported.get('tcmu');
  process.stderr.write(
    `Serving on ${config.apiSocket} through ${service.info().transports.join(', ')}` +
      `${missing === undefined ? '' : ` (tcmu: ${missing})`}\n`,
  );
  const reason = await Promise.race([stopped, service.idle.then(() => 'the last device is gone')]);
  log.info({ reason }, 'service is ending');
  await service.close();
  // Reads that still wait for a registry do not keep a service that has ended: the next one repeats them.
  process.exit();
}

/**
 * systemd kills all processes before it unmounts, at shutdown; it spares those of root whose first argument begins with "@"
 * (systemd.io/ROOT_STORAGE_DAEMONS). Without us the last writes to a TCMU device would wait for ever, and the machine with
 * them. Our unit is not stopped either: see systemd/overlaybd-tcmu.service.
 */
function surviveShutdown(): void {
  if (process.env['INVOCATION_ID'] !== undefined && process.getuid?.() === 0)
    process.title = '@overlaybd-tcmu';
}

function packageVersion(): string {
  const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as {
    version: string;
  };
  return version;
}
