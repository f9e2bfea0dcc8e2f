/** `obd nbd`: an image as a network block device on a Unix socket, for QEMU, qemu-img, nbdcopy and fio; needs no root. */
import type { Command } from 'commander';
import { BlockDevice, NbdServer, nbdUri } from '../blockdev/index.js';
import { ImageOpener, loadServiceConfig } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { serviceConfigPath } from './service-config-path.js';

interface NbdFlags {
  readonly config: string;
  readonly serviceConfig?: string;
  readonly readOnly?: boolean;
}

const EXAMPLE = `
Example:
  $ obd nbd --config image.json /tmp/image.sock &
  nbd+unix:///?socket=/tmp/image.sock
  $ nbdinfo 'nbd+unix:///?socket=/tmp/image.sock'
  $ qemu-system-x86_64 -drive file='nbd+unix:///?socket=/tmp/image.sock',format=raw ...
`;

/** Adds `nbd` to the program. */
export function addNbdCommand(program: Command): void {
  program
    .command('nbd')
    .description('Serve an image over NBD on a Unix socket until told to stop (SIGTERM, SIGINT).')
    .argument('<socket>', 'path of the socket; made with mode 0600, removed at the end')
    .requiredOption('--config <file>', 'the image configuration (config.v1.json)')
    .option('--service-config <file>', 'overlaybd.json, for remote layers')
    .option(
      '--read-only',
      'refuse writes even if the image has a writable layer, and leave that layer unlocked',
    )
    .addHelpText('after', EXAMPLE)
    .action(nbdCommand);
}

async function nbdCommand(socketPath: string, flags: NbdFlags): Promise<void> {
  const stopping = stopSignal();
  const log = makeLogger('warn');
  const opener = new ImageOpener(
    await loadServiceConfig(await serviceConfigPath(flags.serviceConfig), log),
    log,
  );
  try {
    const mode = flags.readOnly === true ? 'read' : 'write';
    const image = await opener.open(flags.config, { mode, compact: true, signal: stopping.signal });
    const device = new BlockDevice(image.blob);
    try {
      const server = await NbdServer.listen(device, socketPath, log);
      try {
        process.stdout.write(`${nbdUri(socketPath)}\n`);
        await stopping.stopped;
      } finally {
        await server.close();
      }
      await device.flush();
    } finally {
      await image.close();
    }
  } finally {
    stopping.release();
    await opener.close();
  }
}

/** The first SIGTERM or SIGINT, as an orderly end: being told to stop is how serving ends well. */
function stopSignal(): { signal: AbortSignal; stopped: Promise<void>; release: () => void } {
  const controller = new AbortController();
  let stop: (signal: NodeJS.Signals) => void = () => undefined;
  const stopped = new Promise<void>((resolve) => {
    stop = (signal) => {
      controller.abort(new Error(`stopped by ${signal}`));
      resolve();
    };
  });
  process.once('SIGTERM', stop).once('SIGINT', stop);
  return {
    signal: controller.signal,
    stopped,
    release: () => {
      process.off('SIGTERM', stop).off('SIGINT', stop);
    },
  };
}
