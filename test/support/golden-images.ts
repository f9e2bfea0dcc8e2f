import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { extentsOf, type ReadableBlob } from '../../src/blob/index.js';
import { silentLogger } from '../../src/log/index.js';
import { zstdVersion } from '../../src/native/index.js';
import { parseImageConfig, type ImageConfig } from '../../src/image/index.js';
import type { DeviceDump } from './device-dump.js';
import { checkout, fixture } from './fixtures.js';

/** An image of sets.json. */
export interface GoldenSet {
  readonly image: string;
  readonly device: string;
  readonly unpack: readonly string[];
}

/** Whether our zstd is the version that packed the golden images: only then are packed bytes the same. */
export const zstdIsTheReferences = zstdVersion === '1.5.4';

/** The images that the reference wrote. */
export function goldenSets(): readonly GoldenSet[] {
  const { sets } = JSON.parse(readFileSync(fixture('sets.json'), 'utf8')) as { sets: GoldenSet[] };
  return sets;
}

/**
 * A directory that looks like the fixtures, with packed files unpacked: links to the originals, and the unpacked files.
 * Made once per version and place of the fixtures and kept in the checkout's `build`: nobody else's files are trusted, and
 * links never outlive the checkout they were made for. Not to be written to.
 */
export function unpackedFixtures(): string {
  const key = createHash('sha256')
    .update(readFileSync(fixture('SHA256SUMS')))
    .update(fixture())
    .digest('hex');
  const root = join(checkout, 'build', `golden-${key.slice(0, 16)}`);
  if (existsSync(root)) return root;
  const making = `${root}.${process.pid}`;
  rmSync(making, { recursive: true, force: true });
  for (const name of readdirSync(fixture(), { recursive: true, encoding: 'utf8', withFileTypes: true })) {
    if (!name.isFile()) continue;
    const from = join(name.parentPath, name.name);
    const to = join(making, from.slice(fixture().length));
    mkdirSync(dirname(to), { recursive: true });
    symlinkSync(from, to);
  }
  for (const packed of new Set(goldenSets().flatMap((set) => set.unpack))) {
    const plain = join(making, packed.replace(/\.zst$/, ''));
    execFileSync('zstd', ['-dq', '--sparse', fixture(packed), '-o', plain]);
    if (plain.endsWith('.tar')) {
      execFileSync('tar', ['-xSf', plain, '-C', dirname(plain)]);
      rmSync(plain);
    }
  }
  try {
    renameSync(making, root);
  } catch {
    // Another test process was first.
    rmSync(making, { recursive: true, force: true });
  }
  return root;
}

/** An image's configuration with `@DIR@` filled in. */
export function goldenConfig(path: string, json?: unknown): ImageConfig {
  const text = json === undefined ? readFileSync(path, 'utf8') : JSON.stringify(json);
  return parseImageConfig(text.replaceAll('@DIR@', dirname(path)), path, silentLogger);
}

/** Numbers of chunks of `blob` that are not as `dump` says. Reads only where the blob knows of data. */
export async function wrongChunks(blob: ReadableBlob, dump: DeviceDump): Promise<number[]> {
  const { chunkSize } = dump;
  const expected = new Map(dump.chunks.map(({ index, sha256 }) => [index, sha256]));
  const touched = new Set<number>(expected.keys());
  for (const { offset, length, data } of extentsOf(blob, 0, blob.size))
    if (data)
      for (let i = Math.floor(offset / chunkSize); i * chunkSize < offset + length; i++) touched.add(i);
  const wrong: number[] = [];
  for (const index of [...touched].sort((a, b) => a - b)) {
    const bytes = new Uint8Array(Math.min(chunkSize, blob.size - index * chunkSize));
    await blob.read(index * chunkSize, bytes);
    const sum = expected.get(index);
    const right =
      sum === undefined
        ? bytes.every((byte) => byte === 0)
        : createHash('sha256').update(bytes).digest('hex') === sum;
    if (!right) wrong.push(index);
  }
  return wrong;
}
