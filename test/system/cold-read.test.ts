import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import {
  createReadStream,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { BlockDevice, FuseFrontEnd, fuseUnsupported, IoWorkers } from '../../src/blockdev/index.js';
import { defaultServiceConfig, ImageOpener, makeImageConfig, plannerModule } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

// Never synchronously: this process serves what the child waits for.
const run = promisify(execFile);
const reason = await fuseUnsupported();
const skip = reason === undefined ? false : `FUSE and loop devices: ${reason}`;

/** The promise: one 4 KiB file of a cold 1 GB image costs at most this. */
const MOST = 4_000_000;

/** A directory tree of a gigabyte that does not compress, with many small files in it. */
function makeTree(root: string): Buffer {
  const big = Buffer.alloc(10_000_000);
  mkdirSync(join(root, 'usr/lib'), { recursive: true });
  for (let i = 0; i < 100; i++) {
    randomFillSync(big);
    writeFileSync(join(root, 'usr/lib', `lib${i}.so`), big);
  }
  for (let i = 0; i < 100; i++) {
    const dir = join(root, 'usr/share/doc', `package${i}`);
    mkdirSync(dir, { recursive: true });
    for (let j = 0; j < 10; j++)
      writeFileSync(join(dir, `file${j}`), big.subarray((i * 10 + j) * 3000, (i * 10 + j + 1) * 3000));
  }
  const wanted = big.subarray(0, 4096);
  writeFileSync(join(root, 'usr/share/doc/package57/wanted'), wanted);
  return Buffer.from(wanted);
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** An OCI layout with one image, of one uncompressed layer. */
async function makeLayout(layout: string, tree: string): Promise<void> {
  const blobs = join(layout, 'blobs/sha256');
  mkdirSync(blobs, { recursive: true });
  const put = (document: unknown): { digest: string; size: number } => {
    const text = JSON.stringify(document);
    const digest = createHash('sha256').update(text).digest('hex');
    writeFileSync(join(blobs, digest), text);
    return { digest: `sha256:${digest}`, size: text.length };
  };
  const tar = join(layout, 'layer.tar');
  await run('tar', ['-C', tree, '--sort=name', '-cf', tar, '.']);
  const digest = await sha256(tar);
  const { size } = statSync(tar);
  renameSync(tar, join(blobs, digest));
  const config = put({
    architecture: 'amd64',
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [`sha256:${digest}`] },
  });
  const oci = 'application/vnd.oci.image';
  const manifest = put({
    schemaVersion: 2,
    mediaType: `${oci}.manifest.v1+json`,
    config: { mediaType: `${oci}.config.v1+json`, ...config },
    layers: [{ mediaType: `${oci}.layer.v1.tar`, digest: `sha256:${digest}`, size }],
  });
  const annotations = { 'org.opencontainers.image.ref.name': 'big' };
  const manifests = [{ mediaType: `${oci}.manifest.v1+json`, ...manifest, annotations }];
  writeFileSync(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
  writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
}

interface Layout {
  readonly digest: string;
  readonly size: number;
}

/** The only layer of the only image in a layout. */
function layerOf(layout: string): Layout {
  const read = (path: string): unknown => JSON.parse(readFileSync(join(layout, path), 'utf8'));
  const index = read('index.json') as { manifests: [Layout] };
  const path = join('blobs', index.manifests[0].digest.replace(':', '/'));
  return (read(path) as { layers: [Layout] }).layers[0];
}

test(
  'one 4 KiB file of a cold 1 GB image costs at most 4 MB of fetching',
  { skip, timeout: 300_000 },
  async (t) => {
    const dir = tempDir(t);
    const wanted = makeTree(join(dir, 'tree'));
    await makeLayout(join(dir, 'oci'), join(dir, 'tree'));
    rmSync(join(dir, 'tree'), { recursive: true });
    await run(process.execPath, [
      join(checkout, 'bin/obdconv'),
      '--quiet',
      '--no-cache',
      `oci:${join(dir, 'oci')}:big`,
      `oci:${join(dir, 'image')}:big`,
    ]);
    rmSync(join(dir, 'oci'), { recursive: true });
    const layer = layerOf(join(dir, 'image'));
    assert.ok(layer.size > 1_000_000_000, `the stored layer has ${layer.size} bytes`);

    const server = await startRegistryServer({ directory: dir, readOnly: true });
    t.after(() => server.close());
    const defaults = defaultServiceConfig(silentLogger);
    const opener = new ImageOpener(
      {
        ...defaults,
        credentialFilePath: '',
        cacheConfig: { ...defaults.cacheConfig, cacheDir: join(dir, 'cache') },
        registryConfig: { plainHttpHosts: [server.host], skipVerifyHosts: [], caFiles: [] },
      },
      silentLogger,
    );
    t.after(() => opener.close());
    const config = makeImageConfig(
      { repoBlobUrl: `${server.url}/v2/image/blobs`, lowers: [layer] },
      'test',
      silentLogger,
    );
    const image = await opener.openConfig(config, { mode: 'read' });
    const workers = new IoWorkers({ logger: silentLogger, count: 1, plannerModule });
    t.after(() => workers.close());
    await opener.setQuiesce(() => workers.quiesce());
    const device = new BlockDevice(image.blob, { readOnly: true, planner: image.planner });
    const front = new FuseFrontEnd({ open: async () => device, workers, logger: silentLogger });
    const attachment = await front.attach({ id: 'cold', configPath: '/x' });
    const mountPoint = join(dir, 'mnt');
    mkdirSync(mountPoint);
    try {
      await run('mount', ['-o', 'ro,noload', attachment.devicePath ?? '', mountPoint]);
      try {
        const file = join(mountPoint, 'usr/share/doc/package57/wanted');
        const { stdout } = await run('cat', [file], { encoding: 'buffer' });
        assert.ok(wanted.equals(stdout));
      } finally {
        await run('umount', [mountPoint]);
      }
      const { bytesFetched } = image.stats();
      t.diagnostic(`${bytesFetched} bytes of ${layer.size} fetched`);
      assert.ok(server.stats.blobBytes <= MOST, `the registry sent ${server.stats.blobBytes} bytes`);
      assert.ok(bytesFetched <= MOST && bytesFetched > 4096, `fetched ${bytesFetched} bytes`);
    } finally {
      await attachment.detach();
    }
  },
);
