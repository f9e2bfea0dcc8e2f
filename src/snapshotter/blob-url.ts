import { SnapshotError } from '../blob/index.js';

/** A host that is spoken to in plain HTTP, if it says so (`mirrorRegistry`, which is no mirror). */
export interface Mirror {
  readonly host: string;
  readonly insecure: boolean;
}

/** Docker Hub's name in references, and its registry's. */
const HUB = 'docker.io';
const HUB_REGISTRY = 'registry-1.docker.io';

/**
 * Where the blobs of an image's repository are: `https://HOST/v2/REPOSITORY/blobs`.
 * @param ref an image reference; tag and digest do not matter.
 * @throws SnapshotError OBD_SNAPSHOT_INVALID
 */
export function blobUrl(ref: string, mirrors: readonly Mirror[] = []): string {
  const name = ref.replace(/@[^@/]*$/, '').replace(/:[^:/]*$/, '');
  const slash = name.indexOf('/');
  const first = name.slice(0, slash);
  const named = slash > 0 && /[.:]|^localhost$/.test(first);
  const host = named ? first : HUB;
  const path = named ? name.slice(slash + 1) : name;
  const repository = host === HUB && !path.includes('/') ? `library/${path}` : path;
  if (!/^[a-z0-9]+(?:(?:[._/]|__|-+)[a-z0-9]+)*$/.test(repository) || !/^[\w.:[\]-]+$/.test(host))
    throw new SnapshotError('OBD_SNAPSHOT_INVALID', `"${ref.slice(0, 200)}" is no image reference`);
  const scheme = mirrors.some((mirror) => mirror.host === host && mirror.insecure) ? 'http' : 'https';
  return `${scheme}://${host === HUB ? HUB_REGISTRY : host}/v2/${repository}/blobs`;
}
