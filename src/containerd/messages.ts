/** What goes over the wire, as objects. Names are those of containerd's API in lower camel case. */

/** `map<string, string>`. */
export type Labels = Readonly<Record<string, string>>;

/** `containerd.types.Descriptor`. */
export interface WireDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations: Labels;
}

/** `containerd.types.Mount`. */
export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

/** An image record: a name, and the manifest or index it stands for. */
export interface ImageRecord {
  readonly name: string;
  readonly labels: Labels;
  readonly target: WireDescriptor;
}

/** A blob of the content store. */
export interface ContentInfo {
  readonly digest: string;
  readonly size: number;
  readonly labels: Labels;
}

/** A snapshot. */
export interface SnapshotInfo {
  readonly name: string;
  readonly parent: string;
  /** 1 view, 2 active, 3 committed. */
  readonly kind: number;
  readonly labels: Labels;
}

/** A part of containerd. */
export interface PluginInfo {
  readonly type: string;
  readonly id: string;
  /** Why it did not start. */
  readonly initErr: { readonly code: number; readonly message: string } | null;
}
