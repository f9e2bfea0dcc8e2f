/** Installing and taking away again: files, links, containerd's configuration. Says what it did; starts nothing. */
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { dropInOf, planContainerd, type ContainerdPlan, type ManualStep } from './containerd-config.js';
import { InstalledFiles, type FileResult, type FilesOptions } from './files.js';
import { importsOf, withoutImport } from './toml-imports.js';
import { USUAL_PREFIX, wantedFiles, wantedLinks, type LayoutOptions } from './units.js';

/** containerd's part of an installation. */
export interface ContainerdOptions {
  /** Main configuration, as the target has it. */
  readonly configPath: string;
  readonly program: string | undefined;
  readonly version?: number | undefined;
  readonly cri: boolean;
}

/** What to install, and where. */
export interface InstallOptions extends FilesOptions, LayoutOptions {
  /** Undefined: leave containerd alone. */
  readonly containerd: ContainerdOptions | undefined;
  /** From the snapshotter's configuration. */
  readonly address: string;
  readonly snapshotsRoot: string;
}

/** What was done. */
export interface InstallReport {
  readonly files: readonly FileResult[];
  /** What only a person can do. */
  readonly manual: readonly ManualStep[];
  /** containerd's version, if there is one. */
  readonly containerd: string | undefined;
}

/** Where containerd's main configuration is, if nothing else is said. */
export const DEFAULT_CONTAINERD_CONFIG = '/etc/containerd/config.toml';
/** Directories of ours that are removed when they are empty. */
const DIRECTORIES = ['/etc/overlaybd', '/etc/overlaybd-snapshotter', `${USUAL_PREFIX}/bin`] as const;

/**
 * Puts everything in place that is not there yet. What was done before an error stays, and is recorded.
 * @throws IoError, ConfigError
 */
export async function install(options: InstallOptions): Promise<InstallReport> {
  const { containerd, root } = options;
  const wanted = await wantedFiles(options);
  const links = await wantedLinks(options);
  const plan: ContainerdPlan | undefined =
    containerd === undefined ? undefined : await planContainerd({ ...options, ...containerd, root });
  if (plan !== undefined)
    wanted.push({
      path: plan.dropInPath,
      content: plan.dropIn,
      mode: 0o644,
      what: "containerd's drop-in",
    });
  const files = await InstalledFiles.open(options);
  const results: FileResult[] = [];
  try {
    for (const file of wanted) results.push(await files.put(file));
    for (const link of links) results.push(await files.link(link));
    const change = plan?.config;
    if (change !== undefined && containerd !== undefined) {
      const { configPath: path } = containerd;
      results.push(
        change.isNew
          ? await files.put({
              path,
              content: change.text,
              mode: 0o644,
              what: 'imports the drop-in, nothing else',
            })
          : await files.edit(path, change.text),
      );
    }
  } finally {
    await files.save();
  }
  return { files: results, manual: plan?.manual ?? [], containerd: plan?.program };
}

/**
 * Takes away what {@link install} wrote and nobody changed. Data stays: caches, snapshots, logs, credentials.
 * @throws IoError
 */
export async function uninstall(
  options: FilesOptions & { readonly containerdConfig: string },
): Promise<InstallReport> {
  const { containerdConfig: path, root } = options;
  const { dropInPath, pattern } = dropInOf(path);
  const files = await InstalledFiles.open(options);
  const results: FileResult[] = [];
  const manual: ManualStep[] = [];
  try {
    // First the import, then what it imports.
    const ours = files.recorded.includes(path) ? await files.remove(path) : undefined;
    if (ours !== undefined) results.push(ours);
    if (ours?.outcome !== 'removed') {
      const text = await readFile(join(root, path), 'utf8').catch(() => undefined);
      const rest = text === undefined ? undefined : withoutImport(text, pattern);
      if (text !== undefined && rest !== undefined && rest !== text)
        results.push(await files.edit(path, rest));
      else if (text !== undefined && (importsOf(text) ?? [pattern]).includes(pattern))
        manual.push({
          reason: `"imports" of "${path}" still has the drop-in; take it out`,
          snippet: `"${pattern}"\n`,
        });
    }
    for (const recorded of files.recorded) results.push(await files.remove(recorded));
  } finally {
    await files.save();
  }
  await files.removeEmpty([...DIRECTORIES, dirname(dropInPath)]);
  return { files: results, manual, containerd: undefined };
}
