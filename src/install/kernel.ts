/**
 * What the kernel has: looked up in files only, nothing is loaded. A feature is there if it is in use (a module that is
 * loaded, a file system that is registered, a major number that is taken), was built in, or lies in the modules' directory.
 */
import { readFile, readdir, stat } from 'node:fs/promises';
import { release } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';

/** `active`: usable now. `available`: comes with the first use, or by `modprobe`. */
export type KernelState = 'active' | 'available' | 'missing' | 'unknown';

/** A part of the kernel. */
export interface KernelFeature {
  /** Name of the module. */
  readonly module: string;
  /** Symbol of the kernel's configuration, without `CONFIG_`. */
  readonly symbol: string;
  readonly purpose: string;
  /** As it stands in /proc/filesystems. */
  readonly filesystem?: string;
  /** As it stands in /proc/devices or /proc/misc. */
  readonly device?: string;
}

/** What devices through TCMU need. */
export const TCMU_FEATURES: readonly KernelFeature[] = [
  { module: 'target_core_user', symbol: 'TCM_USER2', purpose: 'devices served by a program (TCMU)' },
  { module: 'tcm_loop', symbol: 'LOOPBACK_TARGET', purpose: 'TCMU devices as local disks' },
  { module: 'sd_mod', symbol: 'BLK_DEV_SD', purpose: 'SCSI disks', device: 'sd' },
  {
    module: 'configfs',
    symbol: 'CONFIGFS_FS',
    purpose: 'where TCMU devices are made',
    filesystem: 'configfs',
  },
];

/** What devices through FUSE need. */
export const FUSE_FEATURES: readonly KernelFeature[] = [
  { module: 'fuse', symbol: 'FUSE_FS', purpose: 'devices where there is no TCMU', filesystem: 'fuse' },
  { module: 'loop', symbol: 'BLK_DEV_LOOP', purpose: 'FUSE files as block devices', device: 'loop-control' },
];

/** What containers need, whatever serves the devices. */
export const COMMON_FEATURES: readonly KernelFeature[] = [
  {
    module: 'overlay',
    symbol: 'OVERLAY_FS',
    purpose: 'root file systems of containers',
    filesystem: 'overlay',
  },
  { module: 'ext4', symbol: 'EXT4_FS', purpose: 'file systems of images', filesystem: 'ext4' },
];

/** A feature and whether it is there. */
export interface FoundFeature {
  readonly feature: KernelFeature;
  readonly state: KernelState;
}

/** A machine's kernel as far as this program cares. */
export interface KernelReport {
  readonly release: string;
  readonly tcmu: readonly FoundFeature[];
  readonly fuse: readonly FoundFeature[];
  readonly common: readonly FoundFeature[];
  /** Where configfs is mounted, if it is. */
  readonly configfs: string | undefined;
}

/** Features of one list that are certainly not there. */
export function missingOf(found: readonly FoundFeature[]): readonly KernelFeature[] {
  return found.filter(({ state }) => state === 'missing').map(({ feature }) => feature);
}

/**
 * Looks at a kernel.
 * @param root where `proc`, `sys` and `lib/modules` are looked for; `/` for this machine.
 * @param kernel its release; default: that of the running one.
 */
export async function inspectKernel(root = '/', kernel: string = release()): Promise<KernelReport> {
  const text = (path: string): Promise<string> => readFile(join(root, path), 'utf8').catch(() => '');
  const modulesDir = await firstDirectory([
    join(root, 'lib/modules', kernel),
    join(root, 'usr/lib/modules', kernel),
  ]);
  const inDir = (name: string): Promise<string> =>
    modulesDir === undefined ? Promise.resolve('') : readFile(join(modulesDir, name), 'utf8').catch(() => '');
  const [filesystems, devices, misc, mounts, builtin, dep, config, loaded] = await Promise.all([
    text('proc/filesystems'),
    text('proc/devices'),
    text('proc/misc'),
    text('proc/mounts'),
    inDir('modules.builtin'),
    inDir('modules.dep'),
    kernelConfig(root, kernel),
    readdir(join(root, 'sys/module')).catch(() => []),
  ]);
  const words = (table: string): Set<string> =>
    new Set(table.split('\n').map((line) => line.trim().split(/\s+/).at(-1) ?? ''));
  const known = {
    filesystems: words(filesystems),
    devices: new Set([...words(devices), ...words(misc)]),
    loaded: new Set(loaded),
    builtin: moduleNames(builtin),
    loadable: moduleNames(dep),
    config,
    /** Without any of these nothing can be said about modules. */
    informed: dep !== '' || config !== undefined,
  };
  const find = (feature: KernelFeature): FoundFeature => ({ feature, state: stateOf(feature, known) });
  return {
    release: kernel,
    tcmu: TCMU_FEATURES.map(find),
    fuse: FUSE_FEATURES.map(find),
    common: COMMON_FEATURES.map(find),
    configfs: mounts
      .split('\n')
      .map((line) => line.split(' '))
      .find(([, , type]) => type === 'configfs')?.[1],
  };
}

interface Known {
  readonly filesystems: ReadonlySet<string>;
  readonly devices: ReadonlySet<string>;
  readonly loaded: ReadonlySet<string>;
  readonly builtin: ReadonlySet<string>;
  readonly loadable: ReadonlySet<string>;
  readonly config: string | undefined;
  readonly informed: boolean;
}

function stateOf({ module, symbol, filesystem, device }: KernelFeature, known: Known): KernelState {
  if (filesystem !== undefined && known.filesystems.has(filesystem)) return 'active';
  if (device !== undefined && known.devices.has(device)) return 'active';
  if (known.loaded.has(module) || known.builtin.has(module)) return 'active';
  if (known.config?.includes(`\nCONFIG_${symbol}=y\n`) === true) return 'active';
  if (known.loadable.has(module)) return 'available';
  return known.informed ? 'missing' : 'unknown';
}

/** `kernel/fs/fuse/fuse.ko.xz: ...` is module `fuse`; a dash in a file's name is an underscore in the module's. */
function moduleNames(list: string): Set<string> {
  const names = new Set<string>();
  for (const line of list.split('\n')) {
    const name = /([^/:]+)\.ko(?:\.\w+)?(?::|$)/.exec(line)?.[1];
    if (name !== undefined) names.add(name.replaceAll('-', '_'));
  }
  return names;
}

/** Text of the kernel's configuration, with a line break before the first line, if it is kept anywhere. */
async function kernelConfig(root: string, kernel: string): Promise<string | undefined> {
  try {
    return `\n${gunzipSync(await readFile(join(root, 'proc/config.gz'))).toString('latin1')}`;
  } catch {
    // Most distributions keep it beside the kernel instead.
  }
  const text = await readFile(join(root, 'boot', `config-${kernel}`), 'latin1').catch(() => undefined);
  return text === undefined ? undefined : `\n${text}`;
}

async function firstDirectory(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths)
    if (
      await stat(path).then(
        (found) => found.isDirectory(),
        () => false,
      )
    )
      return path;
  return undefined;
}

/**
 * How to get parts of a kernel that it lacks, in a sentence.
 * @param osRelease text of /etc/os-release.
 */
export function kernelAdvice(features: readonly KernelFeature[], osRelease: string, kernel: string): string {
  const value = (key: string): string =>
    new RegExp(`^${key}="?([^"\n]*)`, 'm').exec(osRelease)?.[1]?.toLowerCase() ?? '';
  const family = new Set([value('ID'), ...value('ID_LIKE').split(' ')]);
  const symbols = features.map(({ symbol }) => `CONFIG_${symbol}`).join(', ');
  const general = `a kernel built with ${symbols} is needed`;
  if (family.has('ubuntu'))
    return `apt-get install linux-modules-extra-${kernel} (not for every cloud kernel; linux-image-generic always has it), or ${general}`;
  if (family.has('debian'))
    return `apt-get install linux-image-${debianArchitecture()} and boot it: Debian's kernels have it; this one is not Debian's, or its modules are not installed`;
  if (family.has('rhel') || family.has('fedora') || family.has('centos'))
    return `dnf install kernel-modules-${kernel} kernel-modules-extra-${kernel}, or ${general}`;
  if (family.has('suse')) return `zypper install kernel-default (not kernel-default-base), or ${general}`;
  return `install the package with the modules of kernel ${kernel}, or ${general}`;
}

function debianArchitecture(): string {
  return process.arch === 'x64' ? 'amd64' : process.arch;
}
