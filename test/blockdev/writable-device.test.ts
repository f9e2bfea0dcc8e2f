/** Writable layers over a lower one behind I/O workers: many commands of all kinds in flight, against a model. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { SECTOR } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers, MemoryFrontEnd } from '../../src/blockdev/index.js';
import { silentLogger } from '../../src/log/index.js';
import { AppendLayer, openWritableLayer, SparseLayer, WritableLayerStack } from '../../src/lsmt/index.js';
import { memoryLayer } from '../support/layers.js';
import { tempDir } from '../support/unpack.js';

const workers = new IoWorkers({ logger: silentLogger, count: 2 });
after(() => workers.close());

const SECTORS = 8192;
const SIZE = SECTORS * SECTOR;
const LANES = 32;

for (const kind of ['append', 'sparse'] as const)
  test(`A device on ${kind} layers keeps what ${LANES} commands at a time write and discard`, async (t) => {
    const dir = tempDir(t);
    const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
    const lower = (): ReturnType<typeof memoryLayer> =>
      memoryLayer([{ start: 100, length: 4000, fill: 0xaa }], SIZE);
    const made =
      kind === 'append'
        ? await AppendLayer.create(paths, { virtualSize: SIZE })
        : await SparseLayer.create(paths.data, { virtualSize: SIZE });
    const stack = await WritableLayerStack.open([await lower()], made);
    const front = new MemoryFrontEnd(async () => new BlockDevice(stack), workers);
    const attachment = await front.attach({ id: 'w', configPath: '/x' });
    const { client } = attachment;
    const model = new Uint8Array(SECTORS).fill(0xaa, 100, 4100);
    const seed = Math.floor(Math.random() * 2 ** 31);
    let state = seed;
    const random = (below: number): number => ((state = Math.imul(state, 1103515245) + 12345) >>> 8) % below;
    const stop = new AbortController();
    const compacting = (async () => {
      while (!stop.signal.aborted && kind === 'append') await stack.compact({ batch: 64 * SECTOR });
    })();
    const width = SECTORS / LANES;
    const lane = async (n: number): Promise<void> => {
      for (let i = 0; i < 60; i++) {
        const start = n * width + random(width);
        const length = 1 + random(Math.min(64, (n + 1) * width - start));
        const fill = random(5) === 0 ? 0 : 1 + random(255);
        const { status } =
          fill === 0
            ? await client.discard(start * SECTOR, length * SECTOR)
            : await client.write(start * SECTOR, new Uint8Array(length * SECTOR).fill(fill));
        assert.equal(status, 0);
        model.fill(fill, start, start + length);
        if (random(10) === 0) assert.equal((await client.flush()).status, 0);
        const { data } = await client.read(n * width * SECTOR, width * SECTOR);
        for (let s = 0; s < width; s++)
          assert.equal(data[s * SECTOR + 9], model[n * width + s], `seed ${seed}, lane ${n}, sector ${s}`);
      }
    };
    await Promise.all(Array.from({ length: LANES }, (_, n) => lane(n))).finally(() => {
      stop.abort();
    });
    await compacting;
    await attachment.detach();
    const again = await WritableLayerStack.open(
      [await lower()],
      await openWritableLayer(paths, { strict: true }),
    );
    const got = Buffer.alloc(SIZE);
    await again.read(0, got);
    for (let s = 0; s < SECTORS; s++)
      assert.ok(
        got.subarray(s * SECTOR, (s + 1) * SECTOR).every((byte) => byte === model[s]),
        `seed ${seed}, sector ${s}`,
      );
    await again.close();
  });
