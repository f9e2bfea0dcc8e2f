import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { ReadPlan } from '../../src/blob/index.js';
import { silentLogger } from '../../src/log/index.js';
import { openImage, plannerModule, type ImageDescription } from '../../src/image/index.js';
import { noFixtures } from '../support/fixtures.js';
import { goldenConfig, unpackedFixtures } from '../support/golden-images.js';
import { runPlan } from '../support/run-plan.js';
import { extentsOf, type ReadPlanner } from '../../src/blob/index.js';

const { createPlanner } = (await import(plannerModule)) as {
  createPlanner: (description: ImageDescription) => ReadPlanner;
};

for (const name of [
  'small/native-lz4/image.json',
  'small/native-zstd/image.json',
  'small/native-lz4-bs32/image.json',
  'small/raw-lsmt/image.json',
  'small/sealed-sparse/image.json',
  'lsmt/k8/image.json',
  'lsmt/k33-zstd/image.json',
])
  test(`createPlanner() plans what read() gives for ${name}`, { skip: noFixtures }, async () => {
    const image = await openImage(goldenConfig(join(unpackedFixtures(), name)), {
      log: silentLogger,
      mode: 'read',
    });
    assert.ok(image.planner);
    // As a worker gets it.
    const planner = createPlanner(structuredClone(image.planner));
    const plan = new ReadPlan(4096);
    const data = [...extentsOf(image.blob, 0, image.blob.size)].filter((extent) => extent.data);
    await fc.assert(
      fc.asyncProperty(
        fc.nat(data.length - 1),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.integer({ min: 0, max: 600 }),
        fc.boolean(),
        async (i, where, sectors, wholeSectors) => {
          const extent = data[i] ?? { offset: 0, length: 512 };
          const at = Math.max(0, extent.offset - 4096) + Math.floor(where * (extent.length + 8192));
          const unit = wholeSectors ? 512 : 1;
          const offset = Math.min(at - (at % unit), image.blob.size);
          const length = Math.min(sectors * unit * (wholeSectors ? 1 : 97), image.blob.size - offset);
          plan.clear();
          assert.equal(planner.plan(Float64Array.of(offset, length), 0, plan), true);
          const planned = new Uint8Array(length).fill(0xee);
          runPlan(plan, planned);
          const read = new Uint8Array(length);
          await image.blob.read(offset, read);
          assert.ok(Buffer.from(planned).equals(read), `${offset}+${length}`);
        },
      ),
      { numRuns: 150 },
    );
    await image.close();
  });

test('createPlanner() plans nothing that has a gzip target or no room', { skip: noFixtures }, async () => {
  const image = await openImage(goldenConfig(join(unpackedFixtures(), 'small/turbooci/image.json')), {
    log: silentLogger,
  });
  assert.ok(image.planner);
  const planner = createPlanner(image.planner);
  let planned = 0;
  let refused = 0;
  for (const extent of extentsOf(image.blob, 0, image.blob.size)) {
    if (!extent.data) continue;
    const plan = new ReadPlan(4096);
    plan.addZeroes(1, 0);
    if (planner.plan(Float64Array.of(extent.offset, 4096), 0, plan)) {
      const into = new Uint8Array(4096);
      const expected = new Uint8Array(4096);
      await image.blob.read(extent.offset, expected);
      runPlan(plan, into);
      assert.ok(Buffer.from(into).equals(expected));
      planned++;
    } else {
      assert.equal(plan.length, 1);
      refused++;
    }
    const full = new ReadPlan(1);
    full.addZeroes(1, 0);
    assert.equal(planner.plan(Float64Array.of(extent.offset, 4096), 0, full), false);
    assert.equal(full.length, 1);
  }
  assert.ok(planned > 0 && refused > 0, `${planned} ${refused}`);
  await image.close();
});

test('createPlanner() allocates nothing per call', { skip: noFixtures }, async () => {
  const image = await openImage(goldenConfig(join(unpackedFixtures(), 'small/native-lz4/image.json')), {
    log: silentLogger,
  });
  assert.ok(image.planner);
  const planner = createPlanner(image.planner);
  const plan = new ReadPlan(64);
  const range = Float64Array.of(0, 4096);
  const run = (): void => {
    for (let i = 0; i < 20_000; i++) {
      plan.clear();
      range[0] = (i % 30_000) * 4096;
      planner.plan(range, 0, plan);
    }
  };
  run();
  // Other work of the process grows the heap too, and code that is not yet compiled boxes numbers: the least counts.
  let least = Infinity;
  for (let i = 0; i < 8; i++) {
    const before = process.memoryUsage().heapUsed;
    run();
    const grown = process.memoryUsage().heapUsed - before;
    if (grown >= 0) least = Math.min(least, grown);
  }
  assert.ok(least < 20_000 * 8, `${least} bytes for 20000 calls`);
  await image.close();
});
