import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { SECTOR } from '../../src/blob/index.js';
import { AppendLayer, openWritableLayer, SparseLayer, WritableLayerStack } from '../../src/lsmt/index.js';
import { CRASH_SECTORS, crashLower, crashPaths, crashRound, type CrashOp } from '../support/crash-writer.js';
import { tempDir } from '../support/unpack.js';

/** OBD_CRASHES=300 kills that often. */
const ITERATIONS = Number(process.env['OBD_CRASHES'] ?? 25);

/** Runs the writer until it has reported a round, then a little longer, then kills it. Returns the last round reported. */
async function runAndKill(dir: string, seed: number, ...more: string[]): Promise<number> {
  const writer = join(import.meta.dirname, '..', 'support', 'crash-writer.js');
  const child = spawn(process.execPath, [writer, dir, String(seed), ...more], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  const closed = new Promise<void>((resolve) =>
    child.on('close', () => {
      resolve();
    }),
  );
  child.stdout.on('data', (chunk: Buffer) => {
    if (out === '') setTimeout(() => child.kill('SIGKILL'), Math.random() * 25);
    out += chunk.toString();
  });
  await closed;
  assert.equal(child.signalCode, 'SIGKILL', 'the writer stopped by itself');
  return Number(out.trimEnd().split('\n').at(-1));
}

function apply(model: Uint8Array, op: CrashOp): void {
  model.fill(op.fill, op.start, op.start + op.length);
}

for (const kind of ['append', 'sparse', 'compacted append'])
  test(`A killed process loses nothing that ${kind === 'append' ? 'an' : 'a'} ${kind} layer had acknowledged`, async (t) => {
    const dir = tempDir(t);
    const size = CRASH_SECTORS * SECTOR;
    const paths = crashPaths(dir);
    const made =
      kind === 'sparse'
        ? await SparseLayer.create(paths.data, { virtualSize: size })
        : await AppendLayer.create(paths, { virtualSize: size });
    await made.close();
    // One byte per sector.
    const model = new Uint8Array(CRASH_SECTORS).fill(0xaa, 0, 200);
    const start = Math.floor(Math.random() * 1e6);
    for (let i = 0; i < ITERATIONS; i++) {
      const seed = start + i;
      const last = await runAndKill(dir, seed, ...(kind === 'compacted append' ? ['compact'] : []));
      for (let round = 0; round <= last; round++) for (const op of crashRound(seed, round)) apply(model, op);
      const maybe = model.slice();
      for (const op of crashRound(seed, last + 1)) apply(maybe, op);
      const layer = await openWritableLayer(paths);
      const disk = await WritableLayerStack.open([await crashLower()], layer);
      const got = new Uint8Array(size);
      await disk.read(0, got);
      await disk.close();
      for (let s = 0; s < CRASH_SECTORS; s++) {
        const sector = got.subarray(s * SECTOR, (s + 1) * SECTOR);
        const value = sector[0] ?? -1;
        const where = `seed ${seed}, round ${last}, sector ${s}`;
        assert.ok(
          sector.every((byte) => byte === value),
          `${where} is torn`,
        );
        assert.ok(
          value === model[s] || value === maybe[s],
          `${where}: ${value}, expected ${model[s] ?? -1} or ${maybe[s] ?? -1}`,
        );
        model[s] = value;
      }
    }
  });
