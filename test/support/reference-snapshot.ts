/** A snapshot of the reference's store, as the Go programs of the tests print it. */
export interface ReferenceSnapshot {
  readonly Name: string;
  readonly Kind: string;
  readonly Parent: string;
  readonly Labels: Readonly<Record<string, string>> | null;
  readonly Created: number;
  readonly Updated: number;
  readonly Size: number;
  readonly Inodes: number;
}
