/** `obd record-trace`: runs a workload in an image, and makes an image that brings what the workload reads. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { ConfigError, DeviceError, ioError, OverlaybdError, makeDirectory } from '../blob/index.js';
import { ImageOpener } from '../image/index.js';
import { makeLogger } from '../log/index.js';
import { openImageSource, openImageTarget, parseImageConfig, resolveManifest } from '../oci/index.js';
import { parseFileList, parseTrace } from '../prefetch/index.js';
import type { DeviceInfo, TransportChoice } from '../service/index.js';
import { TRANSPORT_CHOICES } from '../service/index.js';
import { addRegistryOptions, openRegistryClient, type RegistryOptions } from './registry-access.js';
import { resolveImage } from './resolve-image.js';
import { runInImage, type Workload } from './run-in-image.js';
import {
  addServiceOptions,
  attachThrough,
  serviceAddress,
  type ServiceAccessOptions,
  type ServiceAddress,
} from './service-access.js';
import { interruptible } from './stop-signal.js';
import { pushTracedImage } from './traced-image.js';

interface Options extends ServiceAccessOptions, RegistryOptions {
  readonly time: number;
  readonly priorityList?: string;
  /** As the reference spells it. */
  readonly priority_list?: string;
  readonly workingDir: string;
  readonly transport: TransportChoice;
  readonly json?: boolean;
}

const EXAMPLES = `
The trace is recorded while the program runs, at most --time seconds. With --priority-list nothing is run: the list (a path
per line, "/" at its end means all below) takes the place of the trace. Needs root, and unshare and mount (util-linux).

Examples:
  obd record-trace docker://registry.example/app:1_obd docker://registry.example/app:1_traced
  obd record-trace --time 20 docker://registry.example/app:1_obd docker://registry.example/app:1_traced -- python3 /srv/app.py`;

/** Adds `record-trace` to the program. */
export function addRecordTraceCommand(program: Command): void {
  const command = program
    .command('record-trace')
    .description('Run a program in an image, and store the image with the trace of what it read.')
    .argument('<image>', 'an overlaybd image: docker://HOST/REPOSITORY:TAG or oci:DIRECTORY[:TAG]')
    .argument('<new-image>', 'the same forms, and archives')
    .argument('[command...]', "the program and its arguments; default: the image's own")
    .addOption(
      new Option('--time <seconds>', 'when the program is ended').default(60).argParser((text) => {
        const seconds = Number(text.replace(/s$/, ''));
        if (!(seconds > 0 && seconds <= 86400)) throw new InvalidArgumentError('expected 1 to 86400 seconds');
        return seconds;
      }),
    )
    .option('--priority-list <file>', 'files to prefetch, instead of a recorded trace')
    .addOption(new Option('--priority_list <file>').hideHelp())
    .option('--working-dir <dir>', 'where temporary files go', '/tmp/ctr-record-trace/')
    .addOption(
      new Option('--transport <kind>', 'how the device reaches the kernel')
        .choices(TRANSPORT_CHOICES)
        .default('auto'),
    )
    .option('--json', "print the new image's descriptor");
  addRegistryOptions(addServiceOptions(command)).addHelpText('after', EXAMPLES).action(recordTrace);
}

async function recordTrace(
  image: string,
  newImage: string,
  command: readonly string[],
  options: Options,
): Promise<void> {
  await interruptible(async (signal) => {
    const client = openRegistryClient(options, [image, newImage]);
    try {
      const source = openImageSource(image, client);
      const target = openImageTarget(newImage, client);
      await target.check?.();
      const { manifest, descriptor } = await resolveManifest(source);
      const config = await source.readBlob(manifest.config);
      const { createdBy, trace } = await traceOf(image, command, config, options, signal);
      const pushed = await pushTracedImage(
        { source, manifest, manifestType: descriptor.mediaType, config },
        target,
        trace,
        createdBy,
      );
      process.stdout.write(
        options.json === true
          ? `${JSON.stringify({ ...pushed, traceBytes: trace.byteLength })}\n`
          : `${target.name} ${pushed.digest}\n`,
      );
    } finally {
      await client.close();
    }
  });
}

async function traceOf(
  image: string,
  command: readonly string[],
  config: Uint8Array,
  options: Options,
  signal: AbortSignal,
): Promise<{ createdBy: string; trace: Uint8Array }> {
  const priorityList = options.priorityList ?? options.priority_list;
  if (priorityList !== undefined) {
    const trace = await readFile(priorityList).catch((error: unknown) => {
      throw ioError(error, `read "${priorityList}"`, priorityList);
    });
    if (parseFileList(trace, priorityList).length === 0)
      throw new ConfigError('OBD_CONFIG_VALUE', `Cannot use "${priorityList}": it names no file`, {
        source: priorityList,
      });
    return { createdBy: 'obd record-trace --priority-list', trace };
  }
  if (process.getuid?.() !== 0)
    throw new DeviceError(
      'OBD_DEVICE_UNSUPPORTED',
      'Cannot record a trace: running a program in an image needs root',
      {
        hint: 'Or name the files: --priority-list',
      },
    );
  const workload = workloadOf(config, command, image);
  const trace = await record(image, workload, options, signal);
  return { createdBy: `obd record-trace -- ${workload.command.join(' ')}`, trace };
}

interface RunConfig {
  readonly Env?: readonly string[] | null;
  readonly Entrypoint?: readonly string[] | null;
  readonly Cmd?: readonly string[] | null;
  readonly User?: string;
  readonly WorkingDir?: string;
}

function workloadOf(bytes: Uint8Array, command: readonly string[], image: string): Workload {
  // What an image runs is its author's, and passed on as it is.
  const { Env, Entrypoint, Cmd, User, WorkingDir } = (parseImageConfig(bytes, image).config ??
    {}) as RunConfig;
  const wanted = command.length > 0 ? command : [...(Entrypoint ?? []), ...(Cmd ?? [])];
  if (wanted.length === 0)
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot run "${image}": it names no program of its own`, {
      source: image,
      hint: 'Give one: obd record-trace IMAGE NEW_IMAGE -- PROGRAM...',
    });
  return { command: wanted, env: Env ?? [], user: User ?? '', workingDir: WorkingDir ?? '/' };
}

/** Attaches the image with an empty trace, runs the workload, and gives what was recorded. Leaves nothing behind. */
async function record(
  image: string,
  workload: Workload,
  options: Options,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const parent = resolve(options.workingDir);
  await makeDirectory(parent, 0o700);
  const dir = await mkdtemp(join(parent, 'trace-'));
  try {
    const address = await serviceAddress(options);
    const trace = join(dir, 'trace');
    await writeFile(trace, '');
    const configPath = await untracedConfig(image, dir, trace, address, options);
    const device = await attachThrough(address, options, {
      configPath,
      transport: options.transport,
      id: `trace-${randomBytes(3).toString('hex')}`,
    });
    try {
      await run(device, workload, options, signal);
      await rm(`${trace}.lock`, { force: true });
      await until(`${trace}.ok`, options.time * 1000 + 5000);
    } finally {
      await detach(address, device.id);
    }
    const bytes = await readFile(trace);
    process.stderr.write(`Recorded ${parseTrace(bytes, trace).length} reads\n`);
    return bytes;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function run(
  device: DeviceInfo,
  workload: Workload,
  { time }: Options,
  signal: AbortSignal,
): Promise<void> {
  const { devicePath } = device;
  if (devicePath?.startsWith('/dev/') !== true)
    throw new DeviceError(
      'OBD_DEVICE_UNSUPPORTED',
      `Cannot run a program: ${device.transport} gives no block device`,
    );
  const end = await runInImage(devicePath, workload, { timeMs: time * 1000, signal });
  signal.throwIfAborted();
  if (end.timedOut) process.stderr.write(`The program was ended after ${time} s\n`);
  else if (end.status !== 0) process.stderr.write(`The program ended with status ${String(end.status)}\n`);
}

/** The image's configuration, recorded into `trace`, without a trace of its own. */
async function untracedConfig(
  image: string,
  dir: string,
  trace: string,
  { config }: ServiceAddress,
  options: Options,
): Promise<string> {
  const opener = new ImageOpener(config, makeLogger('warn'));
  try {
    const path = await resolveImage(image, dir, opener, { plainHttp: options.plainHttp === true });
    const { accelerationLayer, lowers, ...rest } = JSON.parse(await readFile(path, 'utf8')) as {
      accelerationLayer?: boolean;
      lowers: readonly unknown[];
    };
    const plain = accelerationLayer === true ? lowers.slice(0, -1) : lowers;
    await writeFile(path, JSON.stringify({ ...rest, lowers: plain, recordTracePath: trace }));
    return path;
  } finally {
    await opener.close();
  }
}

async function until(path: string, ms: number): Promise<void> {
  const deadline = Date.now() + ms;
  while ((await stat(path).catch(() => undefined)) === undefined) {
    if (Date.now() > deadline)
      throw new DeviceError(
        'OBD_DEVICE_KERNEL',
        `The trace was not written within ${Math.round(ms / 1000)} s`,
        {
          source: path,
          hint: "The service's log says why",
        },
      );
    await sleep(50);
  }
}

/** The mounts of a program that was ended go with a little delay. */
async function detach({ client }: ServiceAddress, id: string): Promise<void> {
  for (let attempt = 1; ; attempt++)
    try {
      await client.detach(id);
      return;
    } catch (error) {
      const busy = error instanceof OverlaybdError && error.code === 'OBD_DEVICE_BUSY';
      if (!busy || attempt === 50) throw error;
      await sleep(100);
    }
}
