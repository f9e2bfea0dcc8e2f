/**
 * Power loss, simulated: every write, hole and fdatasync of the cache is recorded; at random moments a disk is made
 * that holds what was synced, and of the rest a random part, torn at sectors. Opened again, each present unit of it
 * must be wholly one version of what the source gave.
 */
import assert from 'node:assert/strict';
import { fstatSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { mkdir, open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { localFileOf, MemoryBlob } from '../../src/blob/index.js';
import type { BlobCache, CachedBlob } from '../../src/cache/index.js';
import { addon } from '../../src/native/addon.js';
import { testBytes } from '../support/source-blob.js';
import { openCache, readRange, tempDir, UNIT } from './cache-fixture.js';

const UNITS = 24;
const SIZE = UNITS * UNIT - 1000;

interface Change {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** What the platter holds of one file, and what is still on its way to it. */
class Platter {
  readonly path: string;
  durable: Uint8Array;
  pending: Change[] = [];

  constructor(path: string) {
    this.path = path;
    this.durable = readFileSync(path);
  }

  /** One of the states in which a crash may leave the file. */
  crashed(random: () => number): Uint8Array {
    const image = this.durable.slice();
    for (const { offset, bytes } of this.pending)
      for (let at = 0; at < bytes.length; at += 512)
        if (random() < 0.5)
          image.set(bytes.subarray(at, Math.min(at + 512, image.length - offset)), offset + at);
    return image;
  }
}

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Records what happens to some files, until undone. */
async function record(paths: readonly string[]): Promise<{ platters: Platter[]; undo: () => void }> {
  const platters = new Map<number, Platter>();
  for (const path of paths) platters.set(statSync(path).ino, new Platter(path));
  const of = (fd: number): Platter | undefined => platters.get(fstatSync(fd).ino);
  const some = await open(paths[0] ?? '', 'r');
  const prototype = Object.getPrototypeOf(some) as FileHandle;
  await some.close();
  // eslint-disable-next-line @typescript-eslint/unbound-method -- called with the handle as `this`
  const { write, datasync, sync } = prototype;
  const filePunch = addon.filePunch.bind(addon);
  prototype.write = async function (this: FileHandle, ...args: unknown[]) {
    const [bytes, from, length, offset] = args as [Uint8Array, number, number, number];
    of(this.fd)?.pending.push({ offset, bytes: bytes.slice(from, from + length) });
    return Reflect.apply(write, this, args) as never;
  };
  const syncing = (original: () => Promise<void>) =>
    async function (this: FileHandle): Promise<void> {
      const platter = of(this.fd);
      const before = platter?.pending.length ?? 0;
      await original.call(this);
      for (const { offset, bytes } of platter?.pending.splice(0, before) ?? [])
        platter?.durable.set(bytes, offset);
    };
  prototype.datasync = syncing(datasync);
  prototype.sync = syncing(sync);
  addon.filePunch = async (fd, offset, length) => {
    of(fd)?.pending.push({ offset, bytes: new Uint8Array(length) });
    return filePunch(fd, offset, length);
  };
  return {
    platters: [...platters.values()],
    undo: () => {
      Object.assign(prototype, { write, datasync, sync });
      addon.filePunch = filePunch;
    },
  };
}

/** Gives other bytes for a unit each time it is asked, and remembers them. */
class ChangingBlob extends MemoryBlob {
  readonly versions: Uint8Array[][] = Array.from({ length: UNITS }, () => []);
  #count = 0;

  constructor() {
    super(new Uint8Array(SIZE));
  }

  override async read(offset: number, into: Uint8Array): Promise<void> {
    into.set(testBytes(into.length, ++this.#count));
    for (let at = 0; at < into.length; at += UNIT)
      this.versions[(offset + at) / UNIT]?.push(into.slice(at, at + UNIT));
  }
}

const openWith = (cache: BlobCache, source: MemoryBlob): Promise<CachedBlob> =>
  cache.openBlob({ url: 'http://x/', size: SIZE, source });

for (const seed of [1, 2, 3, 4])
  test(`BlobCache after a power loss has units wholly or not at all (seed ${seed})`, async (t) => {
    const random = randomFrom(seed);
    const dir = tempDir(t);
    const cache = await openCache(t, dir, {
      commitIntervalMs: 3,
      commitBytes: 5 * UNIT,
      maxRunBytes: 3 * UNIT,
      capacity: 16 * UNIT,
    });
    const source = new ChangingBlob();
    const blob = await openWith(cache, source);
    const name = readdirSync(dir).find((file) => !file.endsWith('.units'));
    assert.ok(name);
    const { platters, undo } = await record([join(dir, name), join(dir, `${name}.units`)]);
    t.after(undo);
    let running = true;
    t.after(() => (running = false));
    const pick = (n: number): number => Math.floor(random() * n);
    const work = async (): Promise<void> => {
      while (running) {
        const offset = pick(SIZE);
        const length = Math.min(1 + pick(4 * UNIT), SIZE - offset);
        if (random() < 0.2) await blob.refetch(offset, length);
        else await readRange(blob, offset, length);
        await new Promise((resolve) => setTimeout(resolve, pick(3)));
      }
    };
    const workers = [work(), work(), work()];
    let seen = 0;
    // Longer on a machine that is busy with other things.
    const enough = (crash: number): boolean => crash >= 30 && seen > 50 && cache.stats.evictedBytes > 0;
    for (let crash = 0; crash < 400 && !enough(crash); crash++) {
      await new Promise((resolve) => setTimeout(resolve, 1 + pick(12)));
      const other = join(dir, `crash${crash}`);
      const images = platters.map((platter) => [platter.path, platter.crashed(random)] as const);
      const versions = source.versions.map((list) => [...list]);
      await mkdir(other);
      for (const [path, image] of images) writeFileSync(join(other, path.slice(dir.length + 1)), image);
      const after = await openCache(t, other, { commitIntervalMs: 1e6 });
      const survivor = await openWith(after, new MemoryBlob(new Uint8Array(SIZE)));
      const file = localFileOf(survivor);
      assert.ok(file?.presence);
      for (let unit = 0; unit < UNITS; unit++) {
        if (file.presence[unit] !== 1) continue;
        seen++;
        const bytes = await readRange(survivor, unit * UNIT, Math.min(UNIT, SIZE - unit * UNIT));
        assert.ok(
          versions[unit]?.some((version) => Buffer.compare(version, bytes) === 0),
          `seed ${seed}, crash ${crash}: unit ${unit} is present and is not what the source gave`,
        );
      }
      await survivor.close();
      await after.close();
    }
    running = false;
    await Promise.all(workers);
    assert.ok(seen > 50, `only ${seen} units survived any crash: nothing was tested`);
    assert.ok(cache.stats.evictedBytes > 0, 'nothing was evicted');
    await blob.close();
  });
