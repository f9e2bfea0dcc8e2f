/** The files that an installation consists of, from the templates of the package. */
import { execFile } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ConfigError, ioError } from '../blob/index.js';
import type { WantedFile, WantedLink } from './files.js';
import type { KernelReport } from './kernel.js';

/** Where the templates of the units, other people's scripts, and the reference expect the programs. */
export const USUAL_PREFIX = '/opt/overlaybd';
/** The two services, in the order of their start. */
export const UNITS = ['overlaybd-tcmu.service', 'overlaybd-snapshotter.service'] as const;
/** What systemd gives a service to find programs with. */
const SYSTEMD_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const OLDEST_NODE = [20, 19] as const;

/** Where things come from and go to. */
export interface LayoutOptions {
  /** The package whose templates are used. */
  readonly packageRoot: string;
  /** Where the package will be on the target. */
  readonly prefix: string;
  readonly unitDir: string;
  /** Node.js that the units name; undefined: the one on the path of services. */
  readonly node: string | undefined;
  /** What the target's kernel has; undefined: not known. */
  readonly kernel: KernelReport | undefined;
}

/** Everything but containerd's part. @throws IoError if the package is not whole. */
export async function wantedFiles(options: LayoutOptions): Promise<WantedFile[]> {
  const { packageRoot, unitDir } = options;
  const template = async (...path: string[]): Promise<string> => {
    const file = join(packageRoot, ...path);
    return readFile(file, 'utf8').catch((error: unknown) => {
      throw ioError(error, `read the template "${file}"`, file);
    });
  };
  const units = await Promise.all(
    UNITS.map(async (name) => ({
      path: join(unitDir, name),
      content: unitText(await template('systemd', name), options),
      mode: 0o644,
      what: 'unit of systemd',
    })),
  );
  return [
    ...units,
    {
      path: '/etc/overlaybd/overlaybd.json',
      content: await template('config', 'overlaybd.json'),
      mode: 0o644,
      what: "the service's configuration",
    },
    {
      path: '/etc/overlaybd-snapshotter/config.json',
      content: await template('config', 'overlaybd-snapshotter.json'),
      mode: 0o644,
      what: "the snapshotter's configuration",
    },
    {
      path: `${USUAL_PREFIX}/cred.json`,
      content: '{\n  "auths": {}\n}\n',
      mode: 0o600,
      what: 'credentials for registries, none yet',
      seed: true,
    },
    {
      path: '/etc/modules-load.d/overlaybd.conf',
      content: modulesText(options.kernel),
      mode: 0o644,
      what: 'kernel modules to load at boot',
    },
  ];
}

/** The compatible programs where the reference has them, if the package is somewhere else. @throws IoError */
export async function wantedLinks({ packageRoot, prefix }: LayoutOptions): Promise<WantedLink[]> {
  if (prefix === USUAL_PREFIX) return [];
  const bin = join(packageRoot, 'bin');
  const names = await readdir(bin).catch((error: unknown) => {
    throw ioError(error, `list "${bin}"`, bin);
  });
  return names
    .filter((name) => !name.endsWith('.js'))
    .sort()
    .map((name) => ({ path: join(USUAL_PREFIX, 'bin', name), target: join(prefix, 'bin', name) }));
}

function unitText(template: string, { prefix, node }: LayoutOptions): string {
  // systemd's own marks: a percent sign begins a specifier, a blank ends a word, a dollar sign names a variable.
  for (const path of [prefix, node ?? ''])
    if (/[\s%$"'\\]/.test(path))
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot write units for "${path}": blanks, quotes, % and $ are not for paths of units`,
      );
  return template
    .replaceAll(
      `ExecStart=${USUAL_PREFIX}/`,
      `ExecStart=${node === undefined ? '' : `${node} `}${USUAL_PREFIX}/`,
    )
    .replaceAll(`${USUAL_PREFIX}/`, `${prefix.replace(/\/+$/, '')}/`);
}

function modulesText(kernel: KernelReport | undefined): string {
  const features = kernel === undefined ? undefined : [...kernel.tcmu, ...kernel.fuse];
  const lines = (features ?? []).map(({ feature, state }) =>
    state === 'missing'
      ? `# ${feature.module}: kernel ${kernel?.release ?? ''} has no such module`
      : feature.module,
  );
  return `# Written by "obd install". The service loads what is missing, too; here it is there before anything else starts.
${(features === undefined ? ['target_core_user', 'tcm_loop'] : lines).join('\n')}
`;
}

/**
 * The Node.js that units must name: undefined if services find a good one by themselves, else the one that runs this.
 */
export async function nodeForUnits(): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)('/usr/bin/env', ['node', '--version'], {
      env: { PATH: SYSTEMD_PATH },
      timeout: 10_000,
    });
    const [major = 0, minor = 0] = stdout.trim().replace(/^v/, '').split('.').map(Number);
    if (major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1])) return undefined;
  } catch {
    // Not found, or it does not run.
  }
  return process.execPath;
}
