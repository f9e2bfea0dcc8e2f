/** Writable layers where the disk below them is full, small or read-only. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { AppendLayer, openWritableLayer, SparseLayer, WritableLayerStack } from '../../src/lsmt/index.js';

const skip = process.getuid?.() !== 0 && 'mounting a small file system needs root';
const SIZE = 64 << 20;
const STEP = 64 << 10;

/** A directory on a file system of its own, of so many MiB. */
function smallDisk(t: TestContext, mib: number, fs: 'tmpfs' | 'ext4'): string {
  const dir = mkdtempSync(join(tmpdir(), 'obd-test-'));
  const mnt = join(dir, 'mnt');
  mkdirSync(mnt);
  if (fs === 'tmpfs') execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'tmpfs', mnt]);
  else {
    writeFileSync(join(dir, 'disk'), '');
    execFileSync('truncate', ['-s', `${mib}M`, join(dir, 'disk')]);
    execFileSync('mkfs.ext4', ['-qF', '-m', '0', join(dir, 'disk')]);
    execFileSync('mount', ['-o', 'loop', join(dir, 'disk'), mnt]);
  }
  t.after(() => {
    execFileSync('umount', [mnt]);
    rmSync(dir, { recursive: true });
  });
  return mnt;
}

const bytes = (fill: number): Uint8Array => new Uint8Array(STEP).fill(fill);

async function assertHolds(disk: WritableLayerStack, fills: ReadonlyMap<number, number>): Promise<void> {
  const out = new Uint8Array(STEP);
  for (const [offset, fill] of fills) {
    await disk.read(offset, out);
    assert.ok(
      out.every((byte) => byte === fill),
      `at ${offset}: ${out[0]}, expected ${fill}`,
    );
  }
}

describe('A writable layer on a disk', { skip }, () => {
  for (const kind of ['append', 'sparse'] as const)
    for (const fs of ['tmpfs', 'ext4'] as const)
      test(`that is full (${kind}, ${fs}): writes fail and say so, nothing is lost, and it goes on with more room`, async (t) => {
        const dir = smallDisk(t, 16, fs);
        const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
        const made =
          kind === 'append'
            ? await AppendLayer.create(paths, { virtualSize: SIZE })
            : await SparseLayer.create(paths.data, { virtualSize: SIZE });
        writeFileSync(join(dir, 'filler'), Buffer.alloc(4 << 20, 1));
        let disk = await WritableLayerStack.open([], made);
        const fills = new Map<number, number>();
        let failures = 0;
        for (let i = 0; i < 400 && failures < 20; i += 4) {
          // Four at once: one failure must not spoil its neighbours.
          const offsets = [0, 1, 2, 3].map((n) => ((i + n) % (SIZE / STEP)) * STEP);
          const results = await Promise.allSettled(
            offsets.map((offset) => disk.write(offset, bytes((i % 250) + 1))),
          );
          results.forEach((result, n) => {
            if (result.status === 'fulfilled') fills.set(offsets[n] ?? 0, (i % 250) + 1);
            else {
              failures++;
              assert.equal(
                (result.reason as { code: string }).code,
                'OBD_IO_NO_SPACE',
                String(result.reason),
              );
            }
          });
        }
        assert.ok(failures >= 20 && fills.size > 100, `${failures} failures, ${fills.size} writes`);
        await assertHolds(disk, fills);
        await disk.flush();
        await disk.close();

        // Full as it is, it opens, and shows the same.
        disk = await WritableLayerStack.open([], await openWritableLayer(paths, { strict: true }));
        await assertHolds(disk, fills);
        rmSync(join(dir, 'filler'));
        for (const offset of [...fills.keys()].slice(0, 8)) {
          await disk.write(offset, bytes(251));
          fills.set(offset, 251);
        }
        await disk.flush();
        await assertHolds(disk, fills);
        await disk.close();
        disk = await WritableLayerStack.open([], await openWritableLayer(paths, { strict: true }));
        await assertHolds(disk, fills);
        await disk.close();
      });

  test('that is full of what was overwritten gets room by compaction, which needs none', async (t) => {
    const dir = smallDisk(t, 8, 'tmpfs');
    const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
    const disk = await WritableLayerStack.open([], await AppendLayer.create(paths, { virtualSize: SIZE }));
    const fills = new Map<number, number>();
    for (let i = 0, full = false; !full; i++)
      await disk.write((i % 16) * STEP, bytes((i % 250) + 1)).then(
        () => fills.set((i % 16) * STEP, (i % 250) + 1),
        (error: unknown) => {
          assert.equal((error as { code: string }).code, 'OBD_IO_NO_SPACE');
          full = true;
        },
      );
    const { bavail, bsize } = statfsSync(dir);
    assert.ok(bavail * bsize < STEP);
    const result = await disk.compact();
    assert.equal(result?.sizeAfter, 4096 + 16 * STEP);
    await assertHolds(disk, fills);
    await disk.write(0, bytes(252));
    await disk.close();
    const again = await WritableLayerStack.open([], await AppendLayer.open(paths, { strict: true }));
    await assertHolds(again, fills.set(0, 252));
    await again.close();
    assert.equal(statSync(paths.data).size, 4096 + 17 * STEP);
  });

  test('that is mounted read-only can be read, and not be written', async (t) => {
    const dir = smallDisk(t, 8, 'tmpfs');
    const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
    const disk = await WritableLayerStack.open([], await AppendLayer.create(paths, { virtualSize: SIZE }));
    await disk.write(0, bytes(7));
    await disk.close();
    execFileSync('mount', ['-o', 'remount,ro', dir]);
    await assert.rejects(openWritableLayer(paths), /read-only|EROFS/i);
    await assert.rejects(
      AppendLayer.create({ data: join(dir, 'd2'), index: join(dir, 'i2') }, { virtualSize: SIZE }),
      /read-only|EROFS/i,
    );
    const view = await WritableLayerStack.open([], await openWritableLayer(paths, { mode: 'read' }));
    await assertHolds(view, new Map([[0, 7]]));
    await view.close();
  });
});
