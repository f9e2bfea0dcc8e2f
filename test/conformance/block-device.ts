/**
 * What every front end owes its user, whatever the transport: run with {@link blockDeviceSuite} and a factory that
 * attaches a device and gives a client that reaches it the way a user does.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { WritableMemoryBlob } from '../../src/blob/index.js';
import { BlockDevice } from '../../src/blockdev/index.js';

/** A user's view of one attached device. Failures reject; out of range rejects too where `supports.outOfRange`. */
export interface DeviceClient {
  readonly size: number;
  read(offset: number, length: number): Promise<Uint8Array>;
  write(offset: number, data: Uint8Array): Promise<void>;
  discard(offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
  /** Takes the device away; commands in flight end, well or not. Idempotent. */
  detach(): Promise<void>;
}

export interface BlockDeviceSuite {
  /** Attaches a device; called once per test. */
  readonly factory: (device: BlockDevice) => Promise<DeviceClient>;
  /** What the transport can do at all. */
  readonly supports: { readonly write: boolean; readonly discard: boolean; readonly outOfRange: boolean };
  /** A reason to skip, as node:test takes it. */
  readonly skip?: string | false;
}

const SIZE = (3 << 20) + 512;

/** For node:test's `skip`. */
const unless = (supported: boolean, why: string): string | false => !supported && why;

/** Bytes that say where they are, so that a misplaced block shows. */
export function pattern(offset: number, length: number, salt = 0): Uint8Array {
  const out = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    const at = offset + i;
    out[i] = ((at >>> 9) * 31 + (at & 511) * 7 + salt * 101 + (at >>> 17)) & 255;
  }
  return out;
}

function equal(actual: Uint8Array, expected: Uint8Array, what: string): void {
  assert.equal(Buffer.compare(actual, expected), 0, `${what}: bytes differ`);
}

export function blockDeviceSuite(name: string, suite: BlockDeviceSuite): void {
  const { factory, supports, skip = false } = suite;
  const withDevice = async (
    readOnly: boolean,
    run: (c: DeviceClient, blob: WritableMemoryBlob) => Promise<void>,
  ) => {
    const blob = new WritableMemoryBlob(pattern(0, SIZE));
    const client = await factory(
      new BlockDevice(blob, { readOnly, policy: { deadlineMs: 0, then: 'error' } }),
    );
    try {
      await run(client, blob);
    } finally {
      await client.detach();
    }
  };

  describe(`${name} as a block device`, { skip }, () => {
    test('shows the size of the image', () =>
      withDevice(true, async (c) => {
        assert.equal(c.size, SIZE);
      }));

    test('reads the first, last and middle sectors, and ranges that no block is aligned to', () =>
      withDevice(true, async (c) => {
        for (const [offset, length] of [
          [0, 512],
          [SIZE - 512, 512],
          [0, 4096],
          [SIZE - 4608, 4608],
          [512, 1024],
          [4096 - 512, 1024],
          [65536 - 512, 66048],
          [1 << 20, 1 << 20],
        ] as const)
          equal(await c.read(offset, length), pattern(offset, length), `[${offset}, +${length})`);
      }));

    test('reads many ranges at once, each its own bytes', () =>
      withDevice(true, async (c) => {
        await Promise.all(
          Array.from({ length: 300 }, async (_, i) => {
            const offset = ((i * 7919) % 6000) * 512;
            const length = (1 + (i % 16)) * 512;
            const fits = Math.min(length, SIZE - offset);
            equal(await c.read(offset, fits), pattern(offset, fits), `read ${i}`);
          }),
        );
      }));

    test(
      'refuses what lies outside, and goes on',
      { skip: unless(supports.outOfRange, 'this client cannot ask outside the device') },
      () =>
        withDevice(true, async (c) => {
          for (const [offset, length] of [
            [SIZE, 512],
            [SIZE - 512, 1024],
            [2 ** 40, 512],
          ] as const)
            await assert.rejects(c.read(offset, length));
          equal(await c.read(0, 512), pattern(0, 512), 'after the refusals');
        }),
    );

    test(
      'refuses to change a read-only image',
      { skip: unless(supports.write, 'this front end is read-only here') },
      () =>
        withDevice(true, async (c) => {
          await assert.rejects(c.write(0, pattern(0, 512, 1)));
          equal(await c.read(0, 512), pattern(0, 512), 'after the refusal');
        }),
    );

    test(
      'gives back what was written, and leaves the rest alone',
      { skip: unless(supports.write, 'this front end is read-only here') },
      () =>
        withDevice(false, async (c) => {
          await c.write(4096, pattern(4096, 8192, 1));
          await c.write(SIZE - 512, pattern(SIZE - 512, 512, 2));
          await c.write(1 << 20, pattern(1 << 20, 1 << 20, 3));
          await c.flush();
          equal(await c.read(0, 4096), pattern(0, 4096), 'before');
          equal(await c.read(4096, 8192), pattern(4096, 8192, 1), 'written');
          equal(await c.read(12288, 4096), pattern(12288, 4096), 'after');
          equal(await c.read(SIZE - 512, 512), pattern(SIZE - 512, 512, 2), 'last sector');
          equal(await c.read(1 << 20, 1 << 20), pattern(1 << 20, 1 << 20, 3), 'large');
        }),
    );

    test(
      'reads zeroes where it was discarded',
      { skip: unless(supports.discard, 'this client cannot discard') },
      () =>
        withDevice(false, async (c) => {
          await c.discard(8192, 4096);
          await c.flush();
          equal(await c.read(4096, 12288).then((b) => b.subarray(4096, 8192)), new Uint8Array(4096), 'hole');
          equal(await c.read(4096, 4096), pattern(4096, 4096), 'before');
          equal(await c.read(12288, 4096), pattern(12288, 4096), 'after');
        }),
    );

    test('can be taken away under load: every command ends', () =>
      withDevice(true, async (c) => {
        const reads = Array.from({ length: 200 }, (_, i) => c.read(i * 512, 4096));
        const settled = Promise.allSettled(reads);
        await reads[0];
        await c.detach();
        for (const [i, r] of (await settled).entries())
          if (r.status === 'fulfilled') equal(r.value, pattern(i * 512, 4096), `read ${i}`);
      }));
  });
}
