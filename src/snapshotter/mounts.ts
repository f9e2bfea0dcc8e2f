/** What a client is told to mount. Types, sources, options and their order are what other snapshotters give: tested byte by byte. */
import type { Layout } from './layout.js';
import type { SnapshotRecord } from './records.js';

/** One mount(2), as containerd has it. */
export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

/** File systems that take the mount option `discard`. */
export const DISCARDING: ReadonlySet<string> = new Set(['ext4', 'xfs', 'btrfs', 'f2fs']);

/** What {@link mountsOn} needs. */
export interface MountContext {
  readonly layout: Layout;
  /** The kernel's overlayfs has `index`: it must be off, since lower directories are shared. */
  readonly indexOff: boolean;
}

function mount(type: string, source: string, options: readonly string[]): Mount[] {
  return [{ type, source, target: '', options }];
}

/** A bind mount of a directory. */
export function bindMount(source: string, mode: 'rw' | 'ro', how: 'rbind' | 'bind' = 'rbind'): Mount[] {
  return mount('bind', source, [mode, how]);
}

/** A container's own device, or an image's, for who mounts it himself. `discard` is not known to every file system. */
export function deviceMount(devicePath: string, type: string, mode: 'rw' | 'ro'): Mount[] {
  return mount(type, devicePath, DISCARDING.has(type) ? [mode, 'discard'] : [mode]);
}

function overlay(context: MountContext, options: readonly string[]): Mount[] {
  return mount('overlay', 'overlay', [...(context.indexOff ? ['index=off'] : []), ...options]);
}

/** Mounts of a snapshot on what is below it: directories, nearest first. */
export function mountsOn(
  context: MountContext,
  snapshot: SnapshotRecord,
  lowers: readonly string[],
): Mount[] {
  const { layout } = context;
  const active = snapshot.kind === 'active';
  const [only] = lowers;
  if (only === undefined) return bindMount(layout.fs(snapshot.id), active ? 'rw' : 'ro');
  const lowerdir = `lowerdir=${lowers.join(':')}`;
  if (active)
    return overlay(context, [
      `workdir=${layout.work(snapshot.id)}`,
      `upperdir=${layout.fs(snapshot.id)}`,
      lowerdir,
    ]);
  return lowers.length === 1 ? bindMount(only, 'ro') : overlay(context, [lowerdir]);
}
