/** The I/O workers' rounds make no garbage: a collection is a pause of every device that the worker serves. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { commitLayer, ScratchLayer } from '../../src/lsmt/index.js';
import { packageRoot } from '../../src/native/index.js';

const SECONDS = 3;
const OBD = join(packageRoot, 'dist', 'bench', 'support', 'obd.js');

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

  // A nursery of 1 MiB: one object per read would be a collection every 60,000 reads.
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...['--trace-gc', '--max-semi-space-size=1', OBD],
    ...['bench', 'ring', config, '--depth', '32', '--seconds', String(SECONDS), '--warm-up', '0'],
  ]);
  await rm(dir, { recursive: true });
  const collections = new Map<string, number[]>();
  for (const [, isolate = '', ms = ''] of stdout.matchAll(/^\[\d+:(0x[0-9a-f]+)\]\s+(\d+) ms: Scavenge/gm))
    collections.set(isolate, [...(collections.get(isolate) ?? []), Number(ms)]);
  assert.ok(collections.size >= 2, `the main thread and a worker start with garbage:\n${stdout}`);
  // The first isolate is the main thread's; code is compiled, and makes garbage, in the first half.
  const [, ...workers] = [...collections.values()];
  const late = workers.flat().filter((ms) => ms > (SECONDS * 1000) / 2 && ms < SECONDS * 1000);
  assert.ok(late.length <= 1, `${late.length} collections, at ${late.join(', ')} ms:\n${stdout}`);
});
