/** The golden images again (test/image reads them the general way), here through plans, I/O workers and the executor. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { extentsOf, type Extent, type ReadableBlob } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers, MemoryFrontEnd, type MemoryAttachment } from '../../src/blockdev/index.js';
import { openImage, plannerModule } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { readDeviceDump } from '../support/device-dump.js';
import { noFixtures } from '../support/fixtures.js';
import { goldenConfig, goldenSets, unpackedFixtures, wrongChunks } from '../support/golden-images.js';

/** The device as its client sees it, in unaligned reads; knows where the image has data. */
class ClientBlob implements ReadableBlob {
  readonly name = 'client';
  readonly size: number;
  readonly #attachment: MemoryAttachment;
  readonly #image: ReadableBlob;

  constructor(attachment: MemoryAttachment, image: ReadableBlob) {
    this.#attachment = attachment;
    this.#image = image;
    this.size = attachment.device.size;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    const step = 99 * 512;
    await Promise.all(
      Array.from({ length: Math.ceil(into.byteLength / step) }, async (_, i) => {
        const length = Math.min(step, into.byteLength - i * step);
        const { status, data } = await this.#attachment.client.read(offset + i * step, length);
        assert.equal(status, 0);
        into.set(data, i * step);
      }),
    );
  }

  extents(offset: number, length: number): Iterable<Extent> {
    return extentsOf(this.#image, offset, length);
  }

  close(): Promise<void> {
    return this.#attachment.detach();
  }
}

if (noFixtures) test('Golden images', { skip: noFixtures });
else {
  const workers = new IoWorkers({ logger: silentLogger, count: 2, plannerModule });
  after(() => workers.close());
  for (const { image, device: dumpFile } of goldenSets())
    test(`I/O workers show ${image} as the reference does`, async () => {
      const root = unpackedFixtures();
      const dump = readDeviceDump(join(root, dumpFile));
      const opened = await openImage(goldenConfig(join(root, image)), { log: silentLogger, mode: 'read' });
      const device = new BlockDevice(opened.blob, { planner: opened.planner });
      const frontEnd = new MemoryFrontEnd(() => Promise.resolve(device), workers);
      const attachment = await frontEnd.attach({ configPath: image, id: '1' });
      const client = new ClientBlob(attachment, opened.blob);
      try {
        assert.equal(client.size, dump.virtualSize - (dump.virtualSize % 512));
        assert.deepEqual(await wrongChunks(client, dump), []);
        const { reads, localReads } = attachment.served.counters;
        // Pages of which a writable layer holds a part are asked for.
        if (opened.upper !== undefined) assert.ok(localReads > reads / 2, `${localReads} of ${reads}`);
        else if (!image.includes('turbooci')) assert.equal(localReads, reads);
      } finally {
        await client.close();
        await opened.close();
      }
    });
}
