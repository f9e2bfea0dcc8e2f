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

/** Of one try: on a busy machine it takes longer until all code is compiled. */
const SECONDS = [3, 6, 12];
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

  try {
    let last: Late | undefined;
    for (const seconds of SECONDS) {
      last = await lateCollections(config, seconds);
      if (last.times.length <= 1) return;
    }
    assert.fail(`${last?.times.length} collections, at ${last?.times.join(', ')} ms:\n${last?.output}`);
  } finally {
    await rm(dir, { recursive: true });
  }
});

interface Late {
  /** Milliseconds of the workers' lives. */
  readonly times: readonly number[];
  readonly output: string;
}

/** What the workers' collectors do in the second half of so many seconds of reads: in the first, code is compiled. */
async function lateCollections(config: string, seconds: number): Promise<Late> {
  // A nursery of 1 MiB: one object per read would be a collection every 60,000 reads.
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...['--trace-gc', '--max-semi-space-size=1', OBD],
    ...['bench', 'ring', config, '--depth', '32', '--seconds', String(seconds), '--warm-up', '0'],
  ]);
  const collections = new Map<string, number[]>();
  for (const [, isolate = '', ms = ''] of stdout.matchAll(/^\[\d+:(0x[0-9a-f]+)\]\s+(\d+) ms: Scavenge/gm))
    collections.set(isolate, [...(collections.get(isolate) ?? []), Number(ms)]);
  assert.ok(collections.size >= 2, `the main thread and a worker start with garbage:\n${stdout}`);
  // The first isolate is the main thread's.
  const [, ...workers] = [...collections.values()];
  const times = workers.flat().filter((ms) => ms > (seconds * 1000) / 2 && ms < seconds * 1000);
  return { times, output: stdout };
}
