/** Reads of a disk that is being written to, planned on I/O workers from its page table (src/lsmt/page-table.ts). */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import fc from 'fast-check';
import { ReadPlan, type ReadPlanner } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers } from '../../src/blockdev/index.js';
import {
  openImage,
  parseImageConfig,
  plannerModule,
  type ImageDescription,
  type OpenedImage,
} from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import {
  AppendLayer,
  commitLayer,
  ScratchLayer,
  SparseLayer,
  WritableLayerStack,
} from '../../src/lsmt/index.js';
import { FakeRing } from '../../src/native/index.js';
import { runPlan } from '../support/run-plan.js';

const { createPlanner } = (await import(plannerModule)) as {
  createPlanner: (description: ImageDescription) => ReadPlanner;
};

const SIZE = (8 << 20) + 1536; // the last page is not whole
const dir = mkdtempSync(join(tmpdir(), 'writable-planner-'));
after(() => {
  rmSync(dir, { recursive: true });
});

/** A lower layer with data in the second quarter of the disk, and what the disk then holds. */
async function lower(): Promise<{ path: string; disk: Buffer }> {
  const disk = Buffer.alloc(SIZE);
  for (let i = 2 << 20; i < 4 << 20; i++) disk[i] = i % 251;
  const scratch = await ScratchLayer.create({ virtualSize: SIZE, dir });
  await scratch.store(2 << 20, disk.subarray(2 << 20, 4 << 20));
  const path = join(dir, 'lower');
  const fd = openSync(path, 'w');
  await commitLayer(scratch, {
    write: async (bytes) => {
      writeSync(fd, bytes);
    },
  });
  closeSync(fd);
  await scratch.close();
  return { path, disk };
}

let uppers = 0;

async function writableImage(kind: 'append' | 'sparse'): Promise<{ image: OpenedImage; disk: Buffer }> {
  const { path, disk } = await lower();
  const upper = { data: join(dir, `data-${++uppers}`), index: join(dir, `index-${uppers}`) };
  if (kind === 'append') await (await AppendLayer.create(upper, { virtualSize: SIZE })).close();
  else {
    await (await SparseLayer.create(upper.data, { virtualSize: SIZE })).close();
    writeFileSync(upper.index, '');
  }
  const config = parseImageConfig(
    JSON.stringify({ lowers: [{ file: path }], upper, resultFile: '' }),
    join(dir, 'config'),
    silentLogger,
  );
  return { image: await openImage(config, { log: silentLogger }), disk };
}

function stackOf(image: OpenedImage): WritableLayerStack {
  assert.ok(image.blob instanceof WritableLayerStack);
  return image.blob;
}

const SECTORS = SIZE / 512;
/** Places that meet each other often: few, near the ends of lower data and of the disk. */
const place = fc.oneof(
  fc.integer({ min: 0, max: 40 }),
  fc.integer({ min: 4080, max: 4120 }),
  fc.integer({ min: SECTORS - 40, max: SECTORS - 1 }),
);
const change = fc.record({
  discard: fc.boolean(),
  at: place,
  sectors: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(8, 16)),
  aligned: fc.boolean(),
  fill: fc.integer({ min: 1, max: 255 }),
});

for (const kind of ['append', 'sparse'] as const)
  test(`createPlanner() plans what a disk with a writable layer holds (${kind})`, async () => {
    let planned = 0;
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(change, { maxLength: 12 }),
        fc.nat(12),
        fc.array(fc.tuple(place, fc.integer({ min: 1, max: 60 })), { minLength: 20, maxLength: 20 }),
        async (changes, described, reads) => {
          const { image, disk } = await writableImage(kind);
          try {
            const stack = stackOf(image);
            let planner: ReadPlanner | undefined;
            for (const [i, { discard, at, sectors, aligned, fill }] of changes.entries()) {
              // The table begins with what is there at some time, and follows from then on.
              if (i === described)
                planner = createPlanner(structuredClone(image.planner as ImageDescription));
              const offset = (aligned ? at - (at % 8) : at) * 512;
              const length = Math.min(
                (aligned ? sectors + 7 - ((sectors + 7) % 8) : sectors) * 512,
                SIZE - offset,
              );
              disk.fill(discard ? 0 : fill, offset, offset + length);
              if (discard) await stack.discard(offset, length);
              else await stack.write(offset, new Uint8Array(length).fill(fill));
            }
            planner ??= createPlanner(structuredClone(image.planner as ImageDescription));
            const plan = new ReadPlan(1024);
            for (const [at, sectors] of reads) {
              const offset = at * 512;
              const length = Math.min(sectors * 512, SIZE - offset);
              plan.clear();
              if (!planner.plan(Float64Array.of(offset, length), 0, plan)) {
                refused++;
                assert.equal(plan.length, 0);
                continue;
              }
              planned++;
              const into = new Uint8Array(length).fill(0xee);
              runPlan(plan, into);
              assert.ok(disk.subarray(offset, offset + length).equals(into), `[${offset}, +${length})`);
            }
          } finally {
            await image.close();
            rmSync(join(dir, `data-${uppers}`));
            rmSync(join(dir, `index-${uppers}`));
          }
        },
      ),
      { numRuns: 60 },
    );
    assert.ok(planned > refused, `${planned} planned, ${refused} refused`);
  });

for (const kind of ['append', 'sparse'] as const)
  test(`I/O workers read a disk while it is written to (${kind})`, async () => {
    const { image, disk } = await writableImage(kind);
    const size = SIZE - 1536;
    const mirror = join(dir, 'mirror');
    writeFileSync(mirror, disk);
    truncateSync(mirror, size);
    const fd = openSync(mirror, 'r+');
    const workers = new IoWorkers({ logger: silentLogger, count: 1, plannerModule });
    const ring = new FakeRing({
      ringSize: 65536,
      dataBlocks: 1024,
      deviceSize: size,
      readOnly: false,
      verifyFd: fd,
    });
    try {
      const device = new BlockDevice(image.blob, { planner: image.planner });
      const served = await workers.serve(ring.handle, device);
      const load = { depth: 16, length: 8192, operations: 1500, sequential: false, scatter: true, seed: 5 };
      let compactions = 0;
      let running = true;
      const compact = async (): Promise<void> => {
        while (running) {
          await stackOf(image).compact({}, () => workers.quiesce());
          compactions++;
          await new Promise((resolve) => setImmediate(resolve));
        }
      };
      const compacting = kind === 'append' ? compact() : Promise.resolve();
      for (const change of [
        { writes: 60 },
        { writes: 30, length: 4096 },
        { writes: 40, length: 3072 },
        { writes: 0 },
      ]) {
        const r = await ring.run({ ...load, ...change });
        assert.deepEqual([r.failed, r.wrong, r.violations, r.error], [0, 0, 0, 0], JSON.stringify(change));
      }
      running = false;
      await compacting;
      assert.ok(kind === 'sparse' || compactions > 0);
      assert.ok(served.counters.localReads > 1000, `${served.counters.localReads} reads were planned`);
      await served.remove();
    } finally {
      ring.close();
      await workers.close();
      await image.close();
      closeSync(fd);
    }
  });
