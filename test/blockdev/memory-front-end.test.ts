import assert from 'node:assert/strict';
import { after } from 'node:test';
import { IoWorkers, MemoryFrontEnd, type BlockDevice } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';
import type { MemoryAnswer } from '../../src/native/index.js';
import { blockDeviceSuite } from '../conformance/block-device.js';

const workers = new IoWorkers({ logger: silentLogger, count: 2 });
after(() => workers.close());

function check(answer: MemoryAnswer): Uint8Array {
  if (answer.status !== 0) throw new Error(`status ${answer.status}`);
  return answer.data;
}

blockDeviceSuite('memory front end', {
  supports: { write: true, discard: true, outOfRange: true },
  factory: async (device: BlockDevice) => {
    const frontEnd = new MemoryFrontEnd(() => Promise.resolve(device), workers);
    const { client, detach } = await frontEnd
      .attach({ configPath: '/image', id: '1' })
      .then((a) => ({ client: a.client, detach: () => a.detach() }));
    return {
      size: device.size,
      read: async (offset, length) => check(await client.read(offset, length)),
      write: async (offset, data) => void check(await client.write(offset, data)),
      discard: async (offset, length) => void check(await client.discard(offset, length)),
      flush: async () => void check(await client.flush()),
      detach: async () => {
        await detach();
        assert.equal(client.inFlight, 0);
      },
    };
  },
});
