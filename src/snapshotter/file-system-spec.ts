import { SnapshotError } from '../blob/index.js';
import { Label } from './labels.js';

/** A file system as labels name it: `type[;mount options[;mkfs options]]`. */
export interface FileSystemSpec {
  readonly type: string;
  /** Comma-separated; empty: what suits the type. */
  readonly mountOptions: string;
  /** Words; empty: what suits the type. */
  readonly makeOptions: string;
}

/** @throws SnapshotError OBD_SNAPSHOT_INVALID */
export function parseFileSystem(text: string): FileSystemSpec {
  const [type = '', mountOptions = '', makeOptions = ''] = text.split(';');
  if (!/^[a-z0-9]{1,16}$/.test(type))
    throw new SnapshotError(
      'OBD_SNAPSHOT_INVALID',
      `Label "${Label.fsType}" is "${text.slice(0, 100)}", expected "type[;mount options[;mkfs options]]"`,
      { expected: 'the name of a file system' },
    );
  return { type, mountOptions, makeOptions };
}
