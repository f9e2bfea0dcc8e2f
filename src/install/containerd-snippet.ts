/** What containerd must be told, in the words of each version of its configuration. */

/** What containerd is to do with the snapshotter, beside knowing it. */
export interface SnippetParts {
  /** Kubernetes pulls and runs with it, and tells it the image's name: without that nothing is pulled lazily. */
  readonly cri: boolean;
  /** The transfer service (`ctr image pull` of 1.7 and later) may unpack with it. */
  readonly transfer: boolean;
}

/** What a snippet is made of. */
export interface SnippetOptions {
  /** Version of the configuration: 1, 2 (containerd 1.x), 3 and later (2.x). */
  readonly version: number;
  /** Of the program, if known: `[1, 6]`. Versions before 1.7 know no `exports`. */
  readonly program?: readonly [major: number, minor: number] | undefined;
  /** Socket of the snapshotter. */
  readonly address: string;
  /** Its root directory: what it takes is counted for Kubernetes. */
  readonly root: string;
  readonly platform: string;
}

/** The platform of this machine, as containerd writes it. */
export function machinePlatform(): string {
  const names: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', arm: 'arm/v7' };
  return `linux/${names[process.arch] ?? process.arch}`;
}

const quote = (text: string): string => JSON.stringify(text);

/** True from containerd 1.7 on, and where the version is not known but its configuration is of a 2.x. */
export function knowsExports({ version, program }: Pick<SnippetOptions, 'version' | 'program'>): boolean {
  if (program === undefined) return version >= 3;
  return program[0] > 1 || program[1] >= 7;
}

/** `[proxy_plugins.overlaybd]`: the part that every containerd needs. */
export function proxyPlugin(options: SnippetOptions): string {
  const lines = ['[proxy_plugins.overlaybd]', '  type = "snapshot"', `  address = ${quote(options.address)}`];
  if (knowsExports(options))
    lines.push(
      '  [proxy_plugins.overlaybd.exports]',
      `    root = ${quote(options.root)}`,
      '    # "ctr image pull" of containerd 2.1 and later pulls lazily with this.',
      '    enable_remote_snapshot_annotations = "true"',
    );
  return `${lines.join('\n')}\n`;
}

/** Kubernetes' settings, for a file of the configuration's version. */
export function criSettings({ version }: Pick<SnippetOptions, 'version'>): string {
  const table =
    version >= 3
      ? '[plugins."io.containerd.cri.v1.images"]'
      : version === 2
        ? '[plugins."io.containerd.grpc.v1.cri".containerd]'
        : '[plugins.cri.containerd]';
  return `# Kubernetes: without the annotations no image is pulled lazily. A table stands once in a file.
${table}
  snapshotter = "overlaybd"
  disable_snapshot_annotations = false
`;
}

/** The transfer service's: the first entry is what it has without a configuration. */
export function transferSettings({ version, platform }: SnippetOptions): string {
  // Version 1 has no name for this plugin.
  if (version < 2) return '';
  const entry = (snapshotter: string): string =>
    `[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = ${quote(platform)}
  snapshotter = ${quote(snapshotter)}
`;
  return entry('overlayfs') + entry('overlaybd');
}

/** A whole file with the parts that are wanted. */
export function containerdDropIn(options: SnippetOptions, parts: SnippetParts): string {
  return [
    `# Written by "obd install": containerd's proxy plugin for images in overlaybd format.
# It counts only if containerd's main configuration imports it.
version = ${options.version}
`,
    proxyPlugin(options),
    ...(parts.transfer ? [transferSettings(options)] : []),
    // containerd 2 merges what is imported under its own names, and loses it under those of older versions.
    ...(parts.cri ? [criSettings((options.program?.[0] ?? 0) >= 2 ? { version: 3 } : options)] : []),
  ]
    .filter((part) => part !== '')
    .join('\n');
}
