/**
 * How much containers may write to their overlays ("rootfsQuota", label `disk_quota`): a project quota of its own for each
 * snapshot, where the file system of the root has that. Where it has not, containers start without a limit, and the log
 * says so: that is what the reference's users rely on.
 */
import { SnapshotError, isSystemError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import { Label } from './labels.js';
import type { Layout } from './layout.js';
import type { Labels } from './records.js';

/** Limits what is below an empty directory to `bytes`; 0: the limit of that project ends. @throws a system error */
export type LimitSpace = (directory: string, project: number, bytes: number) => Promise<void>;

/** What {@link SpaceLimits} is made of. */
export interface SpaceLimitsOptions {
  readonly layout: Layout;
  readonly log: Logger;
  readonly limit: LimitSpace;
  /** `20g`; empty for none. */
  readonly rootfsQuota: string;
  /** Separates the projects of several snapshotters. */
  readonly tenant: number;
}

/** The reference's project; below it are those that people choose. */
const FIRST_PROJECT = 16_777_216;
/** Projects of one tenant, and tenants that 32 bits have room for. */
const PROJECTS = 2 ** 24;
const TENANTS = 254;
const UNITS = ['', 'k', 'm', 'g', 't'];
/** The kernel or the file system has no project quota. */
const MISSING = new Set(['ESRCH', 'ENOSYS', 'EOPNOTSUPP', 'ENOTTY']);

/** Bytes of `20g`; undefined for what is no size. */
export function parseSize(text: string): number | undefined {
  const found = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text);
  if (found === null) return undefined;
  const bytes = Math.round(Number(found[1]) * 1024 ** UNITS.indexOf((found[2] ?? '').toLowerCase()));
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined;
}

/** See the head of this file. */
export class SpaceLimits {
  readonly #options: SpaceLimitsOptions;

  constructor(options: SpaceLimitsOptions) {
    this.#options = options;
  }

  /** Limits a new container's overlay. @throws SnapshotError OBD_SNAPSHOT_INVALID for the label */
  async apply(id: number, labels: Labels): Promise<void> {
    const { layout, limit, log } = this.#options;
    const wanted = this.#wanted(labels);
    if (wanted === undefined) return;
    const { key, text } = wanted;
    const bytes = parseSize(text);
    if (bytes === undefined)
      throw new SnapshotError(
        'OBD_SNAPSHOT_INVALID',
        `"${key}" is "${text.slice(0, 100)}", expected a size such as "20g"`,
        { expected: 'a number, and k, m, g or t' },
      );
    try {
      // overlayfs renames from one to the other: both must be in the project.
      for (const directory of [layout.work(id), layout.fs(id)])
        await limit(directory, this.#project(id), bytes);
    } catch (error) {
      if (!isSystemError(error) || !MISSING.has(error.code)) throw error;
      log.warn(
        { snapshot: id, key, quota: text, source: layout.root, err: error },
        'Container has no limit: the file system has no project quota',
      );
    }
  }

  /** After a snapshot is gone from the store. What fails is nobody's trouble: its number is not used again. */
  async forget(id: number, labels: Labels): Promise<void> {
    if (this.#wanted(labels) === undefined) return;
    await this.#options.limit(this.#options.layout.root, this.#project(id), 0).catch(() => undefined);
  }

  #wanted(labels: Labels): { key: string; text: string } | undefined {
    const label = labels[Label.diskQuota];
    const { rootfsQuota } = this.#options;
    if (label !== undefined) return { key: Label.diskQuota, text: label };
    return rootfsQuota === '' ? undefined : { key: 'rootfsQuota', text: rootfsQuota };
  }

  #project(id: number): number {
    const { tenant } = this.#options;
    return FIRST_PROJECT + ((tenant + 1) % TENANTS) * PROJECTS + (id % PROJECTS);
  }
}
