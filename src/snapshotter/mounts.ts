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

/** What {@link directoryMounts} and the others need. */
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

function overlay(context: MountContext, options: readonly string[]): Mount[] {
  return mount('overlay', 'overlay', [...(context.indexOff ? ['index=off'] : []), ...options]);
}

/** Overlay of a snapshot's own directory on `lowers`, nearest first. */
function writableOverlay(context: MountContext, id: number, lowers: readonly string[]): Mount[] {
  const { layout } = context;
  return overlay(context, [
    `workdir=${layout.work(id)}`,
    `upperdir=${layout.fs(id)}`,
    `lowerdir=${lowers.join(':')}`,
  ]);
}

/** Mounts of a snapshot whose ancestors are all directories. @param ancestors nearest first. */
export function directoryMounts(
  context: MountContext,
  snapshot: SnapshotRecord,
  ancestors: readonly SnapshotRecord[],
): Mount[] {
  const { layout } = context;
  const active = snapshot.kind === 'active';
  const lowers = ancestors.map(({ id }) => layout.fs(id));
  const [only] = lowers;
  if (only === undefined) return bindMount(layout.fs(snapshot.id), active ? 'rw' : 'ro');
  if (active) return writableOverlay(context, snapshot.id, lowers);
  if (lowers.length === 1) return bindMount(only, 'ro');
  return overlay(context, [`lowerdir=${lowers.join(':')}`]);
}

/** Mounts of a snapshot on a parent whose device is mounted, read-only. */
export function deviceMounts(
  context: MountContext,
  snapshot: SnapshotRecord,
  parent: SnapshotRecord,
): Mount[] {
  const lower = context.layout.mountpoint(parent.id);
  return snapshot.kind === 'active' ? writableOverlay(context, snapshot.id, [lower]) : bindMount(lower, 'ro');
}
