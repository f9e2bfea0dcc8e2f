/** `obd rpull REF` and `obd pull REF`: an image from a registry into containerd, lazily or whole. */
import { Option, type Command } from 'commander';
import { ConfigError } from '../blob/index.js';
import {
  ContainerdClient,
  pullImage,
  resolvePlace,
  type LayerState,
  type PulledImage,
} from '../containerd/index.js';
import { makeLogger } from '../log/index.js';
import { parsePlatform, RegistryImage } from '../oci/index.js';
import {
  DockerConfigCredentials,
  loginFiles,
  parseReference,
  StaticCredentials,
} from '../registryblob/index.js';
import { addContainerdOptions, type ContainerdOptions } from './containerd-options.js';
import { readLogin, type LoginOptions } from './password.js';
import { byteProgress } from './progress.js';
import { addRegistryOptions, openRegistryClient, type RegistryOptions } from './registry-access.js';
import { interruptible } from './stop-signal.js';
import { formatDuration, formatSize, formatTable } from './units.js';

interface PullFlags extends RegistryOptions, ContainerdOptions, LoginOptions {
  readonly snapshotter?: string;
  readonly platform?: string;
  readonly downloadBlobs?: boolean;
  readonly skipVerify?: boolean;
  readonly tlscacert?: string;
  readonly tlscert?: string;
  readonly tlskey?: string;
  readonly httpTrace?: boolean;
  readonly label?: Readonly<Record<string, string>>;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** Adds `rpull` to the program. */
export function addRpullCommand(program: Command): void {
  configure(program.command('rpull'))
    .description('Pull an image into containerd lazily: layers in overlaybd format are not fetched.')
    .option('--download-blobs', 'fetch layers in overlaybd format, too')
    .addHelpText(
      'after',
      `
Layers that are fetched lazily are read by the service, with its own credentials and its own trust: those of this
command are for manifests and for layers that it fetches.

Example:
  obd rpull registry.example/app:1_obd
  ctr run --rm --snapshotter overlaybd registry.example/app:1_obd app
`,
    )
    .action((reference: string, flags: PullFlags) => pull(reference, flags, false));
}

/** Adds `pull` to the program. */
export function addPullCommand(program: Command): void {
  configure(program.command('pull'))
    .description("Pull an image into containerd whole: every layer's content is fetched and unpacked.")
    .addHelpText(
      'after',
      `
The image runs without its registry afterwards, and can be pushed elsewhere. "obd rpull" is the lazy way.

Example:
  obd pull registry.example/app:1_obd
`,
    )
    .action((reference: string, flags: PullFlags) => pull(reference, flags, true));
}

function configure(command: Command): Command {
  command
    .argument('<reference>', 'HOST/REPOSITORY:TAG; the image has this name in containerd')
    .option('--snapshotter <name>', 'where layers go (default: $CONTAINERD_SNAPSHOTTER or "overlaybd")')
    .option('--platform <os/arch>', "which image of an index (default: Linux on this machine's architecture)")
    .addOption(
      new Option('--label <key=value>', "label of the image's record; repeatable").argParser(addLabel),
    );
  addContainerdOptions(command)
    .option('-u, --user <user[:password]>', 'registry user; without password it is asked for')
    .option('--password-stdin', 'read the password from standard input')
    .addOption(new Option('--creds <user:password>', 'as --user').hideHelp())
    .option('--refresh <token>', 'refresh token for the authorization server')
    .option('-k, --skip-verify', "do not verify the registry's certificate");
  addRegistryOptions(command);
  for (const [name, ours] of [
    ['tlscacert', 'tls-ca'],
    ['tlscert', 'tls-cert'],
    ['tlskey', 'tls-key'],
  ])
    command.addOption(new Option(`--${name ?? ''} <file>`, `as --${ours ?? ''}`).hideHelp());
  return command
    .option('--http-trace', 'log requests to the registry on stderr')
    .addOption(new Option('--http-dump', 'as --http-trace').hideHelp().implies({ httpTrace: true }))
    .addOption(new Option('--hosts-dir <dir>').hideHelp().argParser(refuseHostsDir))
    .option('--json', 'print the result as JSON')
    .option('--quiet', 'no progress');
}

function addLabel(
  text: string,
  before: Readonly<Record<string, string>> = {},
): Readonly<Record<string, string>> {
  const equals = text.indexOf('=');
  if (equals < 1)
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot use label "${text}": expected KEY=VALUE`, {
      hint: 'For example --label team=web',
    });
  return { ...before, [text.slice(0, equals)]: text.slice(equals + 1) };
}

function refuseHostsDir(): never {
  throw new ConfigError(
    'OBD_CONFIG_VALUE',
    '--hosts-dir is not supported: name the registry by the host that serves it',
    {
      hint: '--plain-http, --skip-verify and --tls-ca say how to speak to it',
    },
  );
}

async function pull(reference: string, flags: PullFlags, whole: boolean): Promise<void> {
  const platform = flags.platform === undefined ? undefined : parsePlatform(flags.platform);
  resolvePlace(flags);
  const parsed = parseReference(reference.replace(/^docker:\/\//, ''));
  const login = await readLogin({ ...flags, user: flags.user ?? (flags as { creds?: string }).creds });
  const progress = byteProgress(whole ? 'pull' : 'rpull', flags.quiet === true || flags.json === true);
  const started = Date.now();
  const registry = openRegistryClient(registryOptions(flags, parsed.host), [`docker://${reference}`], {
    credentials: [
      ...(login === undefined ? [] : [new StaticCredentials(login, parsed.host)]),
      ...loginFiles().map((path) => new DockerConfigCredentials(path)),
    ],
    ...(flags.httpTrace === true && { log: makeLogger('trace') }),
  });
  let client: ContainerdClient | undefined;
  try {
    const result = await interruptible(async (signal) => {
      client = await ContainerdClient.connect(flags, { signal });
      return pullImage(client, new RegistryImage(registry, parsed), {
        snapshotter: flags.snapshotter ?? (process.env['CONTAINERD_SNAPSHOTTER'] || 'overlaybd'),
        platform,
        fetchAll: whole,
        downloadBlobs: whole || flags.downloadBlobs === true,
        labels: flags.label ?? {},
        signal,
        onProgress: (done, total) => {
          progress.update(done, total);
        },
      });
    });
    progress.stop();
    const lazy = result.layers.filter(({ state }) => state === 'lazy').length;
    if (lazy > 0 && (whole || flags.downloadBlobs === true))
      process.stderr.write(
        `Warning: ${lazy} of ${result.layers.length} layers were pulled lazily before and are still read from the registry; ` +
          'to change that, remove the images that have them (ctr image rm --sync) and pull again\n',
      );
    const milliseconds = Date.now() - started;
    const { namespace } = client ?? {};
    process.stdout.write(
      flags.json === true
        ? `${JSON.stringify({ namespace, milliseconds, ...result }, undefined, 2)}\n`
        : summary(result, milliseconds),
    );
  } finally {
    progress.stop();
    client?.close();
    await registry.close();
  }
}

function registryOptions(flags: PullFlags, host: string): RegistryOptions {
  const cert = flags.tlsCert ?? flags.tlscert;
  const key = flags.tlsKey ?? flags.tlskey;
  return {
    ...(flags.plainHttp !== undefined && { plainHttp: flags.plainHttp }),
    insecureRegistry: [...(flags.insecureRegistry ?? []), ...(flags.skipVerify === true ? [host] : [])],
    tlsCa: [...(flags.tlsCa ?? []), ...(flags.tlscacert === undefined ? [] : [flags.tlscacert])],
    ...(cert !== undefined && { tlsCert: cert }),
    ...(key !== undefined && { tlsKey: key }),
  };
}

const STATES: Readonly<Record<LayerState, string>> = {
  exists: 'was there',
  lazy: 'lazy',
  unpacked: 'unpacked',
};

function summary(image: PulledImage, milliseconds: number): string {
  const rows = image.layers.map(({ digest, size, state }, i) => [
    String(i),
    formatSize(size),
    STATES[state],
    digest.slice(0, 19),
  ]);
  const size = image.layers.reduce((sum, layer) => sum + layer.size, 0);
  return (
    formatTable([['LAYER', 'SIZE', 'STATE', 'DIGEST'], ...rows]) +
    `${image.name}@${image.target.digest}\n` +
    `${image.platform} on ${image.snapshotter}: ${formatSize(image.fetched)} of ${formatSize(size)} fetched in ${formatDuration(milliseconds)}\n`
  );
}
