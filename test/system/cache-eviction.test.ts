import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { BlockDevice, FuseFrontEnd, fuseUnsupported, IoWorkers } from '../../src/blockdev/index.js';
import { BlobCache } from '../../src/cache/index.js';
import { openImage, plannerModule } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { openInChild } from '../support/device-client.js';
import { readDeviceDump } from '../support/device-dump.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { goldenConfig, unpackedFixtures } from '../support/golden-images.js';
import { SourceBlob } from '../support/source-blob.js';
import { tempDir } from '../support/unpack.js';

// Never synchronously: this process serves what the child waits for.
const run = promisify(execFile);
const reason = await fuseUnsupported();
const skip = noFixtures || (reason === undefined ? false : `FUSE and loop devices: ${reason}`);

const MiB = 1 << 20;
const UNIT = 64 << 10;

test(
  'a device whose cache is far too small gives right bytes while units come and go',
  { skip },
  async (t) => {
    const local = goldenConfig(join(unpackedFixtures(), 'debian/image.json'));
    const cache = await BlobCache.open({
      dir: join(tempDir(t), 'cache'),
      capacity: 6 * MiB,
      minFree: 0,
      unitSize: UNIT,
      maxRunBytes: 4 * UNIT,
      log: silentLogger,
    });
    t.after(() => cache.close());
    // The same layers, but as a registry would have them.
    const config = {
      ...local,
      repoBlobUrl: 'http://registry.test/v2/x/blobs',
      lowers: local.lowers.map((lower) => {
        const bytes = readFileSync(lower.file);
        const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
        return { ...lower, file: '', digest, size: bytes.length };
      }),
    };
    const contents = local.lowers.map(({ file }) => readFileSync(file));
    assert.ok(contents.reduce((sum, { length }) => sum + length, 0) > 20 * MiB);
    const image = await openImage(config, {
      log: silentLogger,
      openRemote: ({ url, digest, size }) => {
        const i = config.lowers.findIndex((lower) => lower.digest === digest);
        return cache.openBlob({ url, digest, size, source: new SourceBlob(contents[i] ?? new Uint8Array()) });
      },
    });
    const truth = await openImage(local, { log: silentLogger, mode: 'read' });
    t.after(() => truth.close());

    const workers = new IoWorkers({ logger: silentLogger, count: 2, plannerModule });
    t.after(() => workers.close());
    let graces = 0;
    cache.setQuiesce(async () => {
      graces++;
      await workers.quiesce();
    });
    const device = new BlockDevice(image.blob, { readOnly: true, planner: image.planner });
    const front = new FuseFrontEnd({ open: async () => device, workers, logger: silentLogger });
    const attachment = await front.attach({ id: 'evict', configPath: '/x' });
    const { chunks, chunkSize } = readDeviceDump(fixture('debian/device.json'));
    let state = 3;
    const pick = (n: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * n);
    };
    const reader = async (): Promise<void> => {
      const client = await openInChild(attachment.devicePath ?? '', constants.O_RDONLY);
      try {
        for (let i = 0; i < 400; i++) {
          // Otherwise the kernel would soon have it all.
          if (i % 20 === 0) await run('blockdev', ['--flushbufs', attachment.devicePath ?? '']);
          const chunk = chunks[pick(chunks.length)];
          assert.ok(chunk);
          const length = 4096 << pick(6);
          const offset = chunk.index * chunkSize + pick(chunkSize / length) * length;
          const expected = Buffer.alloc(length);
          await truth.blob.read(offset, expected);
          const found = await client.read(offset, length);
          assert.ok(expected.equals(found), `[${offset}, ${offset + length})`);
        }
      } finally {
        await client.close();
      }
    };
    try {
      await Promise.all([reader(), reader(), reader(), reader()]);
    } finally {
      await attachment.detach();
    }
    const { evictedBytes, usedBytes, diskFailures } = cache.stats;
    t.diagnostic(`${evictedBytes} bytes evicted in ${graces} grace periods`);
    assert.ok(evictedBytes > 20 * MiB, `${evictedBytes} bytes evicted`);
    assert.ok(usedBytes <= 7 * MiB, `${usedBytes} bytes used`);
    assert.equal(diskFailures, 0);
  },
);
