import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { extentsOf, MemoryBlob, RegistryError, type ReadableBlob } from '../../src/blob/index.js';
import { silentLogger } from '../../src/log/index.js';
import {
  makeImageConfig,
  openImage,
  resultText,
  writeResultFile,
  type OpenedImage,
  type RemoteRequest,
} from '../../src/image/index.js';
import { tarWrapperHead } from '../../src/tar/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { layerBytes } from '../support/layers.js';
import { tempDir } from '../support/unpack.js';
import { zfile } from '../zfile/support.js';

const SIZE = 1 << 20;

/** A layer whose sector `lba` begins with `fill`. */
function layer(lba: number, fill: number): Uint8Array {
  return layerBytes([{ start: lba, length: 1, fill }], SIZE);
}

async function sectors(image: OpenedImage): Promise<number[]> {
  const bytes = new Uint8Array(image.virtualSize);
  await image.blob.read(0, bytes);
  const found: number[] = [];
  for (let i = 0; i < bytes.length; i += 512) if (bytes[i] !== 0) found.push(i / 512);
  return found;
}

/** Blobs by URL; keeps what was asked and what is still open. */
function registry(blobs: Record<string, Uint8Array>): {
  openRemote: (request: RemoteRequest) => Promise<ReadableBlob>;
  asked: RemoteRequest[];
  open: Set<string>;
} {
  const asked: RemoteRequest[] = [];
  const open = new Set<string>();
  class Tracked extends MemoryBlob {
    override async close(): Promise<void> {
      open.delete(this.name);
    }
  }
  return {
    asked,
    open,
    openRemote: async (request) => {
      asked.push(request);
      const bytes = blobs[request.digest];
      if (bytes === undefined)
        throw new RegistryError('OBD_REGISTRY_NOT_FOUND', `Cannot read blob from "${request.url}": 404`, {
          source: request.url,
        });
      open.add(request.url);
      return new Tracked(bytes, request.url);
    },
  };
}

test('openImage() takes file, overlaybd.commit, .commit, overlaybd.sealed, registry, in that order', async (t) => {
  const dir = tempDir(t);
  const put = async (path: string, bytes: Uint8Array): Promise<void> => {
    await mkdir(join(dir, path, '..'), { recursive: true });
    await writeFile(join(dir, path), bytes);
  };
  await put('file', layer(1, 1));
  await put('a/overlaybd.commit', layer(2, 1));
  await put('a/.commit', layer(99, 1));
  await put('b/.commit', layer(3, 1));
  await put('b/overlaybd.sealed', layer(99, 1));
  await put('c/overlaybd.sealed', layer(4, 1));
  await mkdir(join(dir, 'd'));
  const remote = registry({ 'sha256:5': layer(5, 1), 'sha256:6': layer(6, 1) });
  const config = makeImageConfig(
    {
      repoBlobUrl: 'https://h/v2/r/blobs/',
      lowers: [
        { file: join(dir, 'file'), dir: join(dir, 'a'), digest: 'sha256:99' },
        ...['a', 'b', 'c'].map((name) => ({ dir: join(dir, name), digest: 'sha256:99' })),
        { dir: join(dir, 'd'), digest: 'sha256:5', size: 77 },
        { digest: 'sha256:6' },
      ],
    },
    'test',
    silentLogger,
  );
  const image = await openImage(config, { log: silentLogger, openRemote: remote.openRemote });
  assert.deepEqual(await sectors(image), [1, 2, 3, 4, 5, 6]);
  assert.deepEqual(remote.asked.map(({ url, size, dir: at }) => [url, size, at]).sort(), [
    ['https://h/v2/r/blobs/sha256:5', 77, join(dir, 'd')],
    ['https://h/v2/r/blobs/sha256:6', 0, ''],
  ]);
  assert.equal(image.readOnly, true);
  assert.equal(image.lowers.length, 6);
  assert.equal(remote.open.size, 2);
  await image.close();
  assert.equal(remote.open.size, 0);
});

test('openImage() takes layers with and without tar and ZFile', async (t) => {
  const dir = tempDir(t);
  const raw = Buffer.from(layer(1, 1));
  const packed = (await zfile(layer(2, 1))).bytes;
  const wrap = (bytes: Buffer): Buffer => Buffer.concat([tarWrapperHead(bytes.length), bytes]);
  const files = {
    raw,
    zfile: packed,
    rawTar: wrap(Buffer.from(layer(3, 1))),
    zfileTar: wrap((await zfile(layer(4, 1))).bytes),
  };
  const lowers: { file: string }[] = [];
  for (const [name, bytes] of Object.entries(files)) {
    await writeFile(join(dir, name), bytes);
    lowers.push({ file: join(dir, name) });
  }
  const image = await openImage(makeImageConfig({ lowers }, 'test', silentLogger), { log: silentLogger });
  assert.deepEqual(await sectors(image), [1, 2, 3, 4]);
  assert.deepEqual(
    image.lowers.map(({ zfile: z, payloadOffset }) => [z !== undefined, payloadOffset]),
    [
      [false, 0],
      [true, 0],
      [false, 1536],
      [true, 1536],
    ],
  );
  await image.close();
});

test('openImage() leaves the acceleration layer out', async (t) => {
  const dir = tempDir(t);
  await writeFile(join(dir, 'a'), layer(1, 1));
  const lowers = [{ file: join(dir, 'a') }, { file: join(dir, 'missing') }];
  const config = makeImageConfig({ lowers, accelerationLayer: true }, 'test', silentLogger);
  const image = await openImage(config, { log: silentLogger });
  assert.deepEqual(await sectors(image), [1]);
  await image.close();
});

test('openImage() names the lowest layer that fails, and closes the others', async () => {
  const good = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`sha256:${i}`, layer(i, 1)]));
  const remote = registry({ ...good, 'sha256:20': new Uint8Array(4096).fill(7) });
  const lowers = Array.from({ length: 60 }, (_, i) => ({ digest: `sha256:${i}` }));
  const config = makeImageConfig({ repoBlobUrl: 'https://h/v2/r/blobs', lowers }, 'test', silentLogger);
  await assert.rejects(
    openImage(config, { log: silentLogger, openRemote: remote.openRemote }),
    (error: Error & { code?: string; reason?: string }) => {
      assert.equal(error.code, 'OBD_FORMAT_BAD_MAGIC');
      assert.match(
        error.message,
        /layer 20 \(https:\/\/h\/v2\/r\/blobs\/sha256:20\).*neither ZFile nor LSMT/,
      );
      assert.match(error.reason ?? '', /^failed to open layer 20/);
      return true;
    },
  );
  assert.equal(remote.open.size, 0);
});

test('openImage() opens at most 32 layers at a time', async () => {
  let now = 0;
  let most = 0;
  const lowers = Array.from({ length: 100 }, (_, i) => ({ digest: `sha256:${i}` }));
  const config = makeImageConfig({ repoBlobUrl: 'https://h/v2/r/blobs', lowers }, 'test', silentLogger);
  const image = await openImage(config, {
    log: silentLogger,
    openRemote: async () => {
      most = Math.max(most, ++now);
      await new Promise((resolve) => setTimeout(resolve, 5));
      now--;
      return new MemoryBlob(layer(1, 1));
    },
  });
  assert.equal(most, 32);
  await image.close();
});

test('openImage() says where a layer should have been', async (t) => {
  const dir = tempDir(t);
  const open = (value: Parameters<typeof makeImageConfig>[0]): Promise<unknown> =>
    openImage(makeImageConfig(value, 'test', silentLogger), { log: silentLogger });
  await assert.rejects(open({ lowers: [{ dir }] }), {
    code: 'OBD_CONFIG_NOT_FOUND',
    message: /layer 0.*no digest/,
  });
  await assert.rejects(open({ lowers: [{ digest: 'sha256:1' }] }), { message: /no "repoBlobUrl"/ });
  await assert.rejects(open({ lowers: [{ file: join(dir, 'x') }] }), {
    code: 'OBD_IO_NOT_FOUND',
    reason: /^failed to open local file .*\/x: /,
  });
  await assert.rejects(open({ repoBlobUrl: 'https://h/v2/r/blobs', lowers: [{ digest: 'sha256:1' }] }), {
    message: /remote layers are not available here/,
  });
});

test('openImage() uses a damaged upper only with a word, and a target that is gzip only with its index', async (t) => {
  const dir = tempDir(t);
  await writeFile(join(dir, 'meta'), layer(1, 1));
  await writeFile(join(dir, 'target.gz'), Buffer.from([0x1f, 0x8b, 8, 0]));
  const lowers = [{ file: join(dir, 'meta'), targetFile: join(dir, 'target.gz') }];
  await assert.rejects(openImage(makeImageConfig({ lowers }, 'test', silentLogger), { log: silentLogger }), {
    code: 'OBD_FORMAT_UNSUPPORTED',
    message: /layer 0 .*gzip/,
  });
  const upper = { data: join(dir, 'no-data'), index: join(dir, 'no-index') };
  await assert.rejects(openImage(makeImageConfig({ upper }, 'test', silentLogger), { log: silentLogger }), {
    code: 'OBD_IO_NOT_FOUND',
    message: /writable layer .*no-data/,
  });
});

test('writeResultFile() writes what clients of the reference look for', async (t) => {
  const path = join(tempDir(t), 'result');
  await writeResultFile(path);
  assert.equal(await readFile(path, 'utf8'), 'success');
  const config = makeImageConfig(
    { repoBlobUrl: 'https://h/v2/r/blobs', lowers: [{ digest: 'sha256:1' }] },
    'test',
    silentLogger,
  );
  for (const [code, kind] of [
    ['OBD_REGISTRY_AUTH', 'Authentication failed'],
    ['OBD_REGISTRY_CONNECTION', 'Connection failed'],
    ['OBD_REGISTRY_TIMEOUT', 'Get meta timedout'],
    ['OBD_REGISTRY_NOT_FOUND', 'No such file or directory'],
    ['OBD_REGISTRY_THROTTLED', 'Too many requests'],
    ['OBD_REGISTRY_SERVER', 'Unexpected response'],
  ] as const) {
    const failure: unknown = await openImage(config, {
      log: silentLogger,
      openRemote: async () => {
        throw new RegistryError(code, 'something\nhappened');
      },
    }).catch((error: unknown) => error);
    await writeResultFile(path, failure);
    assert.equal(
      readFileSync(path, 'utf8'),
      `failed:failed to open remote file https://h/v2/r/blobs/sha256:1: ${kind}`,
    );
  }
  await writeResultFile('', new Error('x'));
  assert.equal(resultText(new Error('a\nb')), 'failed:failed to create overlaybd device: a b');
});

test('openImage() stacks 255 layers and refuses more', async () => {
  const lowers = Array.from({ length: 256 }, (_, i) => ({ digest: `sha256:${i}` }));
  const open = (count: number): Promise<OpenedImage> =>
    openImage(
      makeImageConfig(
        { repoBlobUrl: 'https://h/v2/r/blobs', lowers: lowers.slice(0, count) },
        'test',
        silentLogger,
      ),
      {
        log: silentLogger,
        openRemote: async ({ digest }) => new MemoryBlob(layer(Number(digest.slice(7)), 1)),
      },
    );
  const image = await open(255);
  assert.deepEqual(
    await sectors(image),
    Array.from({ length: 255 }, (_, i) => i),
  );
  await image.close();
  await assert.rejects(open(256), { code: 'OBD_FORMAT_LIMIT', message: /256 layers, at most 255/ });
});

test(
  'openImage() shows the right bytes or an error, whatever byte of a layer is wrong',
  { skip: noFixtures },
  async () => {
    const config = makeImageConfig(
      { repoBlobUrl: 'https://h/v2/r/blobs', lowers: [{ digest: 'sha256:0' }] },
      'test',
      silentLogger,
    );
    const open = (bytes: Uint8Array): Promise<OpenedImage> =>
      openImage(config, { log: silentLogger, openRemote: async () => new MemoryBlob(bytes, 'layer') });
    for (const name of ['good.tar', 'good-zstd.tar', 'good-trailer.zf']) {
      const good = readFileSync(fixture('small/bad', name));
      const image = await open(good);
      const runs = [...extentsOf(image.blob, 0, image.blob.size)].filter(({ data }) => data);
      const expected = await Promise.all(runs.map((run) => readRun(image, run)));
      await fc.assert(
        fc.asyncProperty(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
          const bytes = Buffer.from(good);
          bytes[at] = (bytes[at] ?? 0) ^ flip;
          const damaged = await open(bytes).catch(onlyOurs);
          if (damaged === undefined) return;
          assert.equal(damaged.virtualSize, image.virtualSize);
          assert.deepEqual(
            [...extentsOf(damaged.blob, 0, damaged.blob.size)].filter(({ data }) => data),
            runs,
          );
          for (const [i, run] of runs.entries()) {
            const read = await readRun(damaged, run).catch(onlyOurs);
            if (read !== undefined) assert.ok(read.equals(expected[i] ?? Buffer.alloc(0)));
          }
        }),
        { numRuns: 150 },
      );
    }
  },
);

async function readRun(image: OpenedImage, run: { offset: number; length: number }): Promise<Buffer> {
  const bytes = Buffer.alloc(run.length);
  await image.blob.read(run.offset, bytes);
  return bytes;
}

/** Swallows errors about formats; others fail the test. */
function onlyOurs(error: unknown): undefined {
  assert.match((error as { code?: string }).code ?? String(error), /^OBD_FORMAT_/);
}
