import assert from 'node:assert/strict';
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { MemoryBlob, OverlaybdError, SECTOR } from '../../src/blob/index.js';
import {
  AppendLayer,
  LayerStack,
  openSealedLayer,
  openWarpLayer,
  openWritableLayer,
  WritableLayerStack,
} from '../../src/lsmt/index.js';
import { layerBytes } from '../support/layers.js';
import { tempDir } from '../support/unpack.js';

const SIZE = 64 * SECTOR;

const good = layerBytes(
  [
    { start: 2, length: 3, fill: 1 },
    { start: 5, length: 4, fill: 0 },
    { start: 20, length: 7, fill: 2 },
    { start: 40, length: 1, fill: 3 },
  ],
  SIZE,
);

/** Flips, overwrites, cuts and doubles parts, most of them in the header, index and trailer, where it matters. */
const damage = fc.array(
  fc.record({
    kind: fc.constantFrom(
      'flip' as const,
      'set' as const,
      'cut' as const,
      'splice' as const,
      'wild' as const,
    ),
    // Counted from the end: trailer, index, then the rest.
    back: fc.oneof(fc.nat(150), fc.integer({ min: 3700, max: 4200 }), fc.nat(good.length - 1)),
    value: fc.nat(255),
    length: fc.nat(64),
  }),
  { minLength: 1, maxLength: 4 },
);

type Damage = ReturnType<typeof damage.generate>['value_'];

function apply(bytes: Uint8Array, changes: Damage): Uint8Array {
  let out = Buffer.from(bytes);
  for (const { kind, back, value, length } of changes) {
    // Byte 28 to 64 of the trailer hold the fields; aim at them as well.
    const at =
      kind === 'wild'
        ? Math.max(0, out.length - 4096 + 28 + (back % 36))
        : Math.max(0, out.length - 1 - back);
    if (at >= out.length) continue;
    if (kind === 'flip') out[at] = (out[at] ?? 0) ^ (1 << (value & 7));
    else if (kind === 'set' || kind === 'wild') out[at] = value;
    else if (kind === 'cut') out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)]);
    else out = Buffer.concat([out.subarray(0, at), out.subarray(at, at + length), out.subarray(at)]);
  }
  return new Uint8Array(out);
}

/** Reads a whole stack of up to 1 MiB in pieces; every failure must be one of ours. */
async function readAll(stack: LayerStack | WritableLayerStack): Promise<void> {
  const size = Math.min(stack.size, 1 << 20);
  const out = new Uint8Array(SECTOR);
  for (let at = 0; at + SECTOR <= size; at += SECTOR) await stack.read(at, out);
}

test('A damaged sealed layer is refused or read inside its file, and nothing else happens', async () => {
  await fc.assert(
    fc.asyncProperty(damage, fc.boolean(), async (changes, warp) => {
      const blob = new MemoryBlob(apply(good, changes), 'damaged');
      try {
        const layer = warp
          ? await openWarpLayer(blob, new MemoryBlob(new Uint8Array(5000), 'target'))
          : await openSealedLayer(blob);
        const stack = new LayerStack([layer]);
        await readAll(stack);
        if (!warp)
          for (let i = 0; i < layer.index.length; i++) assert.ok(layer.info.indexOffset <= blob.size - 4096);
      } catch (error) {
        // A RangeError or TypeError here would be a number that nobody checked.
        if (!(error instanceof OverlaybdError)) throw error;
        assert.match(error.message, /damaged|target/);
      }
    }),
    { numRuns: 3000 },
  );
});

test('A damaged writable layer is refused or opened, and then readable', async (t) => {
  const dir = tempDir(t);
  const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
  const disk = await WritableLayerStack.open([], await AppendLayer.create(paths, { virtualSize: SIZE }));
  for (let i = 0; i < 10; i++) {
    await disk.write(((i * 7) % 60) * SECTOR, new Uint8Array(3 * SECTOR).fill(i + 1));
    await disk.discard(((i * 11) % 60) * SECTOR, SECTOR);
  }
  await disk.close();
  const [data, index] = await Promise.all(
    [paths.data, paths.index].map(async (path) => {
      const { readFile } = await import('node:fs/promises');
      return new Uint8Array(await readFile(path));
    }),
  );
  assert.ok(data !== undefined && index !== undefined);
  let n = 0;
  await fc.assert(
    fc.asyncProperty(damage, fc.boolean(), async (changes, inData) => {
      const copy = { data: join(dir, `d${++n}`), index: join(dir, `i${n}`) };
      copyFileSync(paths.data, copy.data);
      copyFileSync(paths.index, copy.index);
      if (inData) writeFileSync(copy.data, apply(data, changes));
      else writeFileSync(copy.index, apply(index, changes));
      let stack: WritableLayerStack | undefined;
      try {
        stack = await WritableLayerStack.open([], await openWritableLayer(copy));
        await readAll(stack);
        if (stack.size <= 1 << 40) await stack.write(0, new Uint8Array(SECTOR));
      } catch (error) {
        if (!(error instanceof OverlaybdError)) throw error;
      } finally {
        await stack?.close();
      }
    }),
    { numRuns: 200 },
  );
});
