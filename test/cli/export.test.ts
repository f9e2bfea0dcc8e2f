import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import test from 'node:test';
import { MemoryBlob, type Extent } from '../../src/blob/index.js';
import { exportToFile, exportToStream } from '../../src/cli/export.js';
import { differingChunks, readDeviceDump } from '../support/device-dump.js';
import { checkout, noFixtures } from '../support/fixtures.js';
import { unpackedFixtures } from '../support/golden-images.js';
import { scriptedServer } from '../support/scripted-server.js';
import { tempDir } from '../support/unpack.js';

function obd(...args: string[]): { status: number | null; stdout: Buffer; stderr: string } {
  const run = spawnSync(process.execPath, [join(checkout, 'bin', 'obd'), ...args], { maxBuffer: 2 ** 28 });
  return { status: run.status, stdout: run.stdout, stderr: run.stderr.toString() };
}

/** Puts the configuration of a golden image where it can be named. */
function configFile(dir: string, image: string): string {
  const path = join(dir, 'image.json');
  const from = join(unpackedFixtures(), image);
  writeFileSync(path, readFileSync(from, 'utf8').replaceAll('@DIR@', join(from, '..')));
  return path;
}

test('obd export writes a 64 GiB device to a sparse file in seconds', { skip: noFixtures }, (t) => {
  const dir = tempDir(t);
  const out = join(dir, 'disk.raw');
  const started = Date.now();
  const { status, stderr } = obd('export', '--config', configFile(dir, 'debian/image.json'), out);
  assert.equal(status, 0, stderr);
  assert.ok(Date.now() - started < 30_000);
  assert.match(stderr, /64\.0 GiB, .* of it data/);
  const dump = readDeviceDump(join(unpackedFixtures(), 'debian/device.json'));
  const stat = statSync(out);
  assert.equal(stat.size, dump.virtualSize);
  assert.ok(stat.blocks * 512 < 2 ** 30, `${stat.blocks} blocks`);
  assert.deepEqual(differingChunks(out, dump), []);
  assert.deepEqual(readdirSync(dir).sort(), ['disk.raw', 'image.json']);
});

test('obd export - writes all of the device to standard output', { skip: noFixtures }, (t) => {
  const dir = tempDir(t);
  const { status, stdout, stderr } = obd(
    'export',
    '--quiet',
    '--config',
    configFile(dir, 'lsmt/k2/image.json'),
    '-',
  );
  assert.equal(status, 0, stderr);
  assert.equal(stderr, '');
  const dump = readDeviceDump(join(unpackedFixtures(), 'lsmt/k2/device.json'));
  const sums = new Map(dump.chunks.map(({ index, sha256 }) => [index, sha256]));
  assert.equal(stdout.length, dump.virtualSize);
  for (let i = 0; i * dump.chunkSize < stdout.length; i++) {
    const chunk = stdout.subarray(i * dump.chunkSize, (i + 1) * dump.chunkSize);
    const sum = createHash('sha256').update(chunk).digest('hex');
    if (sums.has(i)) assert.equal(sum, sums.get(i));
    else assert.ok(chunk.every((byte) => byte === 0));
  }
});

test('obd export ends quietly when its reader has seen enough', { skip: noFixtures }, async (t) => {
  const dir = tempDir(t);
  const config = configFile(dir, 'small/native-lz4/image.json');
  const child = spawn(process.execPath, [join(checkout, 'bin', 'obd'), 'export', '--config', config, '-'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.on('data', (text: Buffer) => (errors += text.toString()));
  await once(child.stdout, 'data');
  child.stdout.destroy();
  const [status] = (await once(child, 'close')) as [number];
  assert.equal(status, 0, errors);
  assert.equal(errors, '');
});

test(
  'obd export refuses to replace a file unless forced, and leaves nothing behind on failure',
  { skip: noFixtures },
  (t) => {
    const dir = tempDir(t);
    const config = configFile(dir, 'lsmt/k2/image.json');
    const out = join(dir, 'out');
    writeFileSync(out, 'mine');
    const refused = obd('export', '--config', config, out);
    assert.equal(refused.status, 7);
    assert.match(refused.stderr, /the file exists\n[^]*--force/);
    assert.equal(readFileSync(out, 'utf8'), 'mine');
    assert.equal(obd('export', '--force', '--config', config, out).status, 0);
    assert.ok(statSync(out).size > 4);

    const damaged = join(dir, 'damaged.json');
    const lower = join(unpackedFixtures(), 'small/bad/zf-block-crc.zf');
    writeFileSync(damaged, JSON.stringify({ lowers: [{ file: lower }] }));
    const failed = obd('export', '--config', damaged, join(dir, 'other'));
    assert.equal(failed.status, 3);
    assert.match(failed.stderr, /crc error in block 6/);
    assert.deepEqual(readdirSync(dir).sort(), ['damaged.json', 'image.json', 'out']);
  },
);

test('exportToFile() stops when it is told to', async (t) => {
  const dir = tempDir(t);
  const controller = new AbortController();
  const disk = new MemoryBlob(new Uint8Array(40 << 20));
  await assert.rejects(
    exportToFile(disk, join(dir, 'x'), {
      signal: controller.signal,
      onProgress: () => {
        controller.abort();
      },
    }),
    { code: 'OBD_ABORTED' },
  );
  assert.deepEqual(readdirSync(dir), []);
});

test('exportToStream() fills holes with zeroes wherever they are', async () => {
  class Holes extends MemoryBlob {
    *extents(): Generator<Extent> {
      yield { offset: 0, length: 512, data: false };
      yield { offset: 512, length: 1024, data: true };
      yield { offset: 1536, length: 3 << 20, data: false };
      yield { offset: 1536 + (3 << 20), length: 512, data: true };
      yield { offset: 2048 + (3 << 20), length: 512, data: false };
    }
  }
  const bytes = new Uint8Array(2560 + (3 << 20));
  bytes.fill(1, 512, 1536);
  bytes.fill(2, 1536 + (3 << 20), 2048 + (3 << 20));
  const stream = new PassThrough();
  const got = stream.toArray() as Promise<Buffer[]>;
  const result = await exportToStream(new Holes(bytes), stream);
  stream.end();
  assert.deepEqual(result, { size: bytes.length, dataSize: 1536 });
  assert.ok(Buffer.concat(await got).equals(bytes));
});

test('obd export stops on SIGINT while a registry does not answer, and leaves nothing behind', async (t) => {
  const dir = tempDir(t);
  let ask: () => void = () => undefined;
  const asked = new Promise<void>((resolve) => (ask = resolve));
  const server = await scriptedServer(() => {
    ask();
  });
  t.after(() => server[Symbol.asyncDispose]());
  const digest = `sha256:${'0'.repeat(64)}`;
  const config = join(dir, 'image.json');
  const lowers = [{ digest, size: 1 << 20 }];
  writeFileSync(config, JSON.stringify({ repoBlobUrl: `${server.url}/v2/r/blobs`, lowers }));
  const service = join(dir, 'overlaybd.json');
  writeFileSync(
    service,
    JSON.stringify({
      cacheConfig: { cacheType: 'file', cacheDir: join(dir, 'cache') },
      registryConfig: { plainHttpHosts: [server.host] },
    }),
  );
  const child = spawn(
    process.execPath,
    [
      join(checkout, 'bin', 'obd'),
      'export',
      '--config',
      config,
      '--service-config',
      service,
      join(dir, 'out'),
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let errors = '';
  child.stderr.on('data', (text: Buffer) => (errors += text.toString()));
  const closed = once(child, 'close') as Promise<[number]>;
  await Promise.race([asked, closed]);
  const started = Date.now();
  child.kill('SIGINT');
  const [status] = await closed;
  assert.equal(status, 130, errors);
  assert.ok(Date.now() - started < 5000, `${Date.now() - started} ms`);
  assert.match(errors, /Cancelled: open image/);
  assert.deepEqual(readdirSync(dir).sort(), ['cache', 'image.json', 'overlaybd.json']);
});
