/** The I/O workers' rounds make no garbage: a collection is a pause of every device that the worker serves. */
import assert from 'node:assert/strict';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { workerGarbage, type WorkerGarbage } from '../../bench/support/worker-garbage.js';
import { commitLayer, ScratchLayer } from '../../src/lsmt/index.js';

/** Of one try: on a busy machine it takes longer until all code is compiled. */
const SECONDS = [3, 6, 12];

test('an I/O worker that answers local reads collects no garbage', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'obd-test-'));
  // Places beyond 2^31 bytes: numbers that V8 keeps as objects wherever they are not known to be doubles.
  const layer = await ScratchLayer.create({ virtualSize: 16 * 2 ** 30, dir });
  for (let i = 0; i < 64; i++) await layer.store(4 * 2 ** 30 + i * 2 ** 26, Buffer.alloc(1 << 18, i));
  const path = join(dir, 'layer');
  const handle = await open(path, 'w');
  await commitLayer(layer, {
    write: async (bytes) => {
      await handle.writeFile(bytes);
    },
  });
  await handle.close();
  await layer.close();
  const config = join(dir, 'image.json');
  await writeFile(config, JSON.stringify({ lowers: [{ file: path }], resultFile: '' }));

  try {
    let last: WorkerGarbage | undefined;
    for (const seconds of SECONDS) {
      // A nursery of 1 MiB: one object per read would be a collection every 60,000 reads.
      const flags = ['--max-semi-space-size=1'];
      last = await workerGarbage({ image: config, depth: 32, seconds, counted: seconds / 2, flags });
      if (last.times.length <= 1) return;
    }
    assert.fail(`${last?.times.length} collections, at ${last?.times.join(', ')} ms:\n${last?.output}`);
  } finally {
    await rm(dir, { recursive: true });
  }
});
