/**
 * OCI image layouts that lie in the served directory, shown as repositories to pull from: the directory itself, and
 * each directory in it. An image whose name in index.json is a whole reference (`host/repo:tag`) is found under that
 * repository as well; one with a bare tag under the directory's own name.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { componentOf, isDigestName, isRepositoryName, isTagName } from './names.js';

/** One repository made of a layout. */
export interface LayoutRepository {
  /** Directory that has `blobs/`. */
  readonly directory: string;
  readonly tags: Map<string, string>;
  /** Media types by digest, as far as index.json says. */
  readonly types: Map<string, string>;
}

/** How long a listing is used before the disk is looked at again. */
const FRESH_MS = 1000;
const MAX_INDEX = 4 * 1024 * 1024;
const MAX_LAYOUTS = 1000;

/** Finds layouts; notices changes within a second. */
export class Layouts {
  readonly #root: string;
  #at = -Infinity;
  #found: Promise<Map<string, LayoutRepository>> | undefined;

  constructor(root: string) {
    this.#root = root;
  }

  /** Repositories by name. */
  all(): Promise<Map<string, LayoutRepository>> {
    const now = performance.now();
    if (this.#found === undefined || now - this.#at > FRESH_MS) {
      this.#at = now;
      this.#found = this.#scan();
    }
    return this.#found;
  }

  async #scan(): Promise<Map<string, LayoutRepository>> {
    const repositories = new Map<string, LayoutRepository>();
    await addLayout(this.#root, repositories);
    const entries = await readdir(this.#root, { withFileTypes: true }).catch(() => []);
    for (const entry of entries.filter((one) => one.isDirectory()).slice(0, MAX_LAYOUTS))
      await addLayout(join(this.#root, entry.name), repositories);
    return repositories;
  }
}

async function addLayout(directory: string, into: Map<string, LayoutRepository>): Promise<void> {
  let manifests: unknown;
  try {
    await stat(join(directory, 'oci-layout'));
    const path = join(directory, 'index.json');
    if ((await stat(path)).size > MAX_INDEX) return;
    ({ manifests } = JSON.parse(await readFile(path, 'utf8')) as { manifests?: unknown });
  } catch {
    // No layout, or one that is being written.
    return;
  }
  if (!Array.isArray(manifests)) return;
  const own = repository(into, componentOf(basename(directory)), directory);
  for (const entry of manifests as Record<string, unknown>[]) {
    const { digest, mediaType, annotations } = entry;
    if (typeof digest !== 'string' || !isDigestName(digest)) continue;
    const name = (annotations as Record<string, unknown> | undefined)?.['org.opencontainers.image.ref.name'];
    const { path, tag } = splitName(typeof name === 'string' ? name : 'latest');
    const targets = [own, ...(path === undefined ? [] : [repository(into, path, directory)])];
    for (const target of targets) {
      if (tag !== undefined && !target.tags.has(tag)) target.tags.set(tag, digest);
      if (typeof mediaType === 'string') target.types.set(digest, mediaType);
    }
  }
}

function repository(all: Map<string, LayoutRepository>, name: string, directory: string): LayoutRepository {
  let found = all.get(name);
  if (found?.directory !== directory) {
    found = { directory, tags: new Map(), types: new Map() };
    all.set(name, found);
  }
  return found;
}

/** `docker.io/library/debian:12` is repository `library/debian`, tag `12`; `12` is a tag alone. */
function splitName(name: string): { path?: string; tag?: string } {
  if (isTagName(name)) return { tag: name };
  const match = /^(?:([^/]*[.:][^/]*|localhost)\/)?([^:@]+)(?::([^/@]+))?$/.exec(name);
  const path = match?.[2] ?? '';
  const tag = match?.[3] ?? 'latest';
  if (!isRepositoryName(path) || !isTagName(tag)) return {};
  return { path, tag };
}
