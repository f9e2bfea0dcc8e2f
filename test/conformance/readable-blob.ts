import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import type { ReadableBlob } from '../../src/blob/index.js';

/** What a blob kind can do beyond the contract. */
export interface ReadableBlobSupport {
  /** Reads after close reject with a TypeError. */
  readonly rejectsAfterClose?: boolean;
}

/** A kind of blob under test. */
export interface ReadableBlobKind {
  readonly name: string;
  /** Opens a blob that holds exactly `content`. Called often; whatever it makes it registers with `onCleanup`. */
  factory(content: Uint8Array, onCleanup: (undo: () => Promise<void>) => void): Promise<ReadableBlob>;
  readonly supports: ReadableBlobSupport;
  readonly skip?: string | false;
}

/** Half repetitive, half noise, so that every codec meets both; not a multiple of any unit. */
export const sampleContent: Uint8Array = (() => {
  const bytes = new Uint8Array(300_007);
  let state = 12345;
  for (let i = 0; i < bytes.length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[i] = (i >> 14) & 1 ? state >>> 24 : (i >> 7) & 255;
  }
  return bytes;
})();

/** Runs the suite that every {@link ReadableBlob} passes. */
export function testReadableBlob(kind: ReadableBlobKind): void {
  const it = (
    what: string,
    body: (open: (content: Uint8Array) => Promise<ReadableBlob>) => Promise<void>,
  ): void =>
    void test(`${kind.name} ${what}`, { skip: kind.skip ?? false }, async (t) => {
      await body(async (content) => {
        const blob = await kind.factory(content, (undo) => {
          t.after(undo);
        });
        t.after(() => blob.close());
        return blob;
      });
    });

  it('has the size of its content and a name', async (open) => {
    for (const size of [1, 511, 4096, 4097]) {
      const blob = await open(sampleContent.subarray(0, size));
      assert.equal(blob.size, size);
      assert.notEqual(blob.name, '');
    }
  });

  it('reads any range, and fills all of it', async (open) => {
    const blob = await open(sampleContent);
    await fc.assert(
      fc.asyncProperty(fc.nat(sampleContent.length), fc.nat(100_000), async (offset, length) => {
        const end = Math.min(sampleContent.length, offset + length);
        // Guards around the destination: nothing else may be written.
        const memory = new Uint8Array(end - offset + 32).fill(0xee);
        await blob.read(offset, memory.subarray(16, 16 + end - offset));
        assert.ok(Buffer.from(memory.subarray(16, -16)).equals(sampleContent.subarray(offset, end)));
        assert.ok(
          memory.subarray(0, 16).every((b) => b === 0xee) && memory.subarray(-16).every((b) => b === 0xee),
        );
      }),
      { numRuns: 60 },
    );
    const whole = new Uint8Array(sampleContent.length);
    await blob.read(0, whole);
    assert.ok(Buffer.from(whole).equals(sampleContent));
  });

  it('reads nothing anywhere up to its end', async (open) => {
    const blob = await open(sampleContent);
    for (const offset of [0, 1, 4096, 5000, sampleContent.length]) await blob.read(offset, new Uint8Array(0));
  });

  it('answers overlapping reads independently', async (open) => {
    const blob = await open(sampleContent);
    const reads = Array.from({ length: 20 }, (_, i) => ({ offset: i * 7001, into: new Uint8Array(50_000) }));
    await Promise.all(reads.map(({ offset, into }) => blob.read(offset, into)));
    for (const { offset, into } of reads)
      assert.ok(Buffer.from(into).equals(sampleContent.subarray(offset, offset + into.length)));
  });

  it('rejects ranges that leave it with a RangeError', async (open) => {
    const blob = await open(sampleContent);
    const size = sampleContent.length;
    for (const [offset, length] of [
      [size, 1],
      [size - 1, 2],
      [-1, 1],
      [0, size + 1],
      [0.5, 1],
      [NaN, 1],
      [2 ** 53, 0],
    ] as const)
      await assert.rejects(blob.read(offset, new Uint8Array(length)), RangeError);
  });

  it('closes twice, after the reads in flight', async (open) => {
    const blob = await open(sampleContent);
    const into = new Uint8Array(sampleContent.length);
    const read = blob.read(0, into);
    await Promise.all([blob.close(), read]);
    await blob.close();
    assert.ok(Buffer.from(into).equals(sampleContent));
    if (kind.supports.rejectsAfterClose === true)
      await assert.rejects(blob.read(0, new Uint8Array(1)), TypeError);
  });
}
