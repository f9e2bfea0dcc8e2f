import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { Readable } from 'node:stream';
import test from 'node:test';
import { LayerFetcher } from '../../src/convert/layer-fetcher.js';
import type { Descriptor, ImageSource } from '../../src/oci/index.js';
import { patternBytes } from '../support/scripted-server.js';
import { tempDir } from '../support/unpack.js';

const LAYERS = Array.from({ length: 5 }, (_, i) => patternBytes(300_000 + i, i));
const descriptors = LAYERS.map((bytes, i): Descriptor => ({
  mediaType: 'x',
  digest: String(i),
  size: bytes.length,
}));

/** A source that tells which layers were asked for; those in `broken` fail half-way. */
function sourceOf(options: { remote: boolean; broken?: number }): { source: ImageSource; asked: number[] } {
  const asked: number[] = [];
  const streamBlob = ({ digest }: Descriptor): Promise<Readable> => {
    const index = Number(digest);
    asked.push(index);
    const bytes = LAYERS[index] ?? Buffer.alloc(0);

    async function* chunks(): AsyncGenerator<Uint8Array, void, undefined> {
      for (let at = 0; at < bytes.length; at += 50_000) {
        if (index === options.broken && at > 100_000) throw new Error('the line is cut');
        yield bytes.subarray(at, at + 50_000);
      }
    }
    return Promise.resolve(Readable.from(chunks(), { objectMode: false }));
  };
  const place = options.remote ? { host: 'h', repository: 'r' } : undefined;
  return { asked, source: { name: 'test', streamBlob, ...(place && { place }) } as unknown as ImageSource };
}

async function readAll(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(Buffer.from(chunk));
  return Buffer.concat(parts);
}

const openFiles = (): number => readdirSync('/proc/self/fd').length;

test('Two layers are fetched ahead of the one that is read, each once and whole', async (t) => {
  const { source, asked } = sourceOf({ remote: true });
  const before = openFiles();
  const fetcher = new LayerFetcher(source, descriptors, tempDir(t), new AbortController().signal);
  for (const [index, bytes] of LAYERS.entries()) {
    const chunks = fetcher.open(index);
    const first = await chunks.next();
    assert.ok(first.done !== true);
    while (asked.length < Math.min(index + 3, LAYERS.length)) await new Promise(setImmediate);
    assert.equal(asked.length, Math.min(index + 3, LAYERS.length));
    assert.deepEqual(Buffer.concat([first.value, await readAll(chunks)]), bytes);
  }
  assert.deepEqual([...asked].sort(), [0, 1, 2, 3, 4]);
  await fetcher.close();
  assert.equal(openFiles(), before);
});

test('Nothing is fetched ahead of a source in files', async (t) => {
  const { source, asked } = sourceOf({ remote: false });
  const fetcher = new LayerFetcher(source, descriptors, tempDir(t), new AbortController().signal);
  assert.deepEqual(await readAll(fetcher.open(0)), LAYERS[0]);
  assert.deepEqual(asked, [0]);
  await fetcher.close();
});

test('A layer whose fetch fails says so when it is read, and what was fetched is given back', async (t) => {
  const dir = tempDir(t);
  const before = openFiles();
  const { source } = sourceOf({ remote: true, broken: 1 });
  const fetcher = new LayerFetcher(source, descriptors, dir, new AbortController().signal);
  assert.deepEqual(await readAll(fetcher.open(0)), LAYERS[0]);
  await assert.rejects(readAll(fetcher.open(1)), /the line is cut/);
  // One that is not read to its end.
  const chunks = fetcher.open(2);
  await chunks.next();
  await chunks.return();
  await fetcher.close();
  assert.equal(openFiles(), before);
  assert.deepEqual(readdirSync(dir), []);
});

test('Where there is no room for it, nothing is fetched ahead', async (t) => {
  const { source, asked } = sourceOf({ remote: true });
  const { signal } = new AbortController();
  const fetcher = new LayerFetcher(source, descriptors, tempDir(t), signal, () => Promise.resolve(1_000_000));
  for (const [index, bytes] of LAYERS.entries()) {
    const chunks = fetcher.open(index);
    const first = await chunks.next();
    assert.ok(first.done !== true);
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(asked.length, index + 1);
    assert.deepEqual(Buffer.concat([first.value, await readAll(chunks)]), bytes);
  }
  await fetcher.close();
});
