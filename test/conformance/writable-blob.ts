import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { SECTOR, type WritableBlob } from '../../src/blob/index.js';

/** One implementation under test. */
export interface WritableSubject {
  readonly blob: WritableBlob;
  /** What the blob holds at first; its length is the blob's size. */
  readonly content: Uint8Array;
  /** Closes the blob and opens it again from what is on disk; absent if it has no disk. */
  reopen?(): Promise<WritableSubject>;
}

interface RangeOp {
  readonly kind: 'write' | 'discard';
  readonly start: number;
  readonly length: number;
  readonly fill: number;
}

interface OtherOp {
  readonly kind: 'other';
  readonly what: 'flush' | 'reopen';
}

/**
 * The behaviour every WritableBlob must have. `make` gives a fresh one of some dozens to thousands of sectors, whose files go
 * with the test.
 */
export function writableBlobSuite(name: string, make: (t: TestContext) => Promise<WritableSubject>): void {
  const check = async (subject: WritableSubject, model: Uint8Array): Promise<void> => {
    assert.equal(subject.blob.size, model.byteLength);
    const out = new Uint8Array(model.byteLength).fill(0xee);
    await subject.blob.read(0, out);
    for (let s = 0; s < model.byteLength; s += SECTOR)
      if (!Buffer.from(out.subarray(s, s + SECTOR)).equals(model.subarray(s, s + SECTOR)))
        assert.fail(
          `sector ${s / SECTOR} holds ${out[s] ?? '?'}, expected ${model[s] ?? '?'} (${subject.blob.name})`,
        );
  };

  test(`${name} reads as it was made`, async (t) => {
    const subject = await make(t);
    await check(subject, subject.content);
    await subject.blob.close();
  });

  test(`${name} behaves like an array of sectors under writes, discards, flushes and reopening`, async (t) => {
    const op = fc.oneof(
      {
        weight: 10,
        arbitrary: fc.record({
          kind: fc.constantFrom('write' as const, 'write' as const, 'discard' as const),
          start: fc.nat(1_000_000),
          length: fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 64 })),
          fill: fc.integer({ min: 1, max: 255 }),
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({
          kind: fc.constant('other' as const),
          what: fc.constantFrom('flush' as const, 'reopen' as const),
        }),
      },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(op, { maxLength: 25 }), async (ops: (RangeOp | OtherOp)[]) => {
        let subject = await make(t);
        const model = subject.content.slice();
        for (const o of ops) {
          if (o.kind === 'other' && o.what === 'flush') await subject.blob.flush();
          else if (o.kind === 'other') {
            if (subject.reopen !== undefined) subject = await subject.reopen();
          } else {
            const start = (o.start % (model.byteLength / SECTOR)) * SECTOR;
            const end = Math.min(start + o.length * SECTOR, model.byteLength);
            model.fill(o.kind === 'write' ? o.fill : 0, start, end);
            if (o.kind === 'write') await subject.blob.write(start, model.slice(start, end));
            else await subject.blob.discard(start, end - start);
          }
        }
        await check(subject, model);
        if (subject.reopen !== undefined) {
          subject = await subject.reopen();
          await check(subject, model);
        }
        await subject.blob.close();
      }),
      { numRuns: 40 },
    );
  });

  test(`${name} keeps concurrent writes of neighbouring sectors apart`, async (t) => {
    const subject = await make(t);
    const model = subject.content.slice();
    const sectors = Math.min(64, model.byteLength / SECTOR);
    const writes: Promise<void>[] = [];
    for (let s = 0; s < sectors; s++) {
      const bytes = new Uint8Array(SECTOR).fill(s + 1);
      model.set(bytes, s * SECTOR);
      writes.push(subject.blob.write(s * SECTOR, bytes));
    }
    await Promise.all(writes);
    await check(subject, model);
    await subject.blob.close();
  });

  test(`${name} does not keep the caller's buffer`, async (t) => {
    const subject = await make(t);
    const bytes = new Uint8Array(SECTOR).fill(7);
    await subject.blob.write(0, bytes);
    bytes.fill(8);
    const out = new Uint8Array(SECTOR);
    await subject.blob.read(0, out);
    assert.ok(out.every((byte) => byte === 7));
    await subject.blob.close();
  });

  test(`${name} refuses what leaves it or is not whole sectors, and changes nothing`, async (t) => {
    const subject = await make(t);
    const { size } = subject.blob;
    await assert.rejects(subject.blob.write(size, new Uint8Array(SECTOR)), RangeError);
    await assert.rejects(subject.blob.write(size - SECTOR, new Uint8Array(2 * SECTOR)), RangeError);
    await assert.rejects(subject.blob.discard(0, size + SECTOR), RangeError);
    await assert.rejects(subject.blob.discard(-SECTOR, SECTOR), RangeError);
    await assert.rejects(subject.blob.write(1, new Uint8Array(SECTOR)), RangeError);
    await assert.rejects(subject.blob.discard(0, 100), RangeError);
    await check(subject, subject.content);
    await subject.blob.close();
  });

  test(`${name} closes once for many calls and refuses use afterwards`, async (t) => {
    const subject = await make(t);
    await Promise.all([subject.blob.close(), subject.blob.close()]);
    await assert.rejects(subject.blob.write(0, new Uint8Array(SECTOR)), TypeError);
    await assert.rejects(subject.blob.read(0, new Uint8Array(SECTOR)), TypeError);
  });
}
