import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { MemoryBlob, type ReadableBlob, type ReadOptions } from '../../src/blob/index.js';
import { CoalescingBlob, type CoalescerOptions } from '../../src/registryblob/index.js';
import { patternBytes } from '../support/scripted-server.js';

/** Counts fetches; each waits until the test releases it, or fails. */
class SlowBlob implements ReadableBlob {
  readonly name = 'slow';
  readonly size: number;
  readonly fetches: [number, number][] = [];
  readonly #inner: MemoryBlob;
  readonly #delayMs: number;
  now = 0;
  most = 0;
  aborted = 0;
  failNext = 0;
  closed = false;

  constructor(bytes: Buffer, delayMs = 1) {
    this.#inner = new MemoryBlob(bytes);
    this.size = bytes.length;
    this.#delayMs = delayMs;
  }

  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    this.fetches.push([offset, into.byteLength]);
    this.most = Math.max(this.most, ++this.now);
    try {
      await sleep(
        this.#delayMs,
        undefined,
        options?.signal === undefined ? {} : { signal: options.signal },
      ).catch((error: unknown) => {
        this.aborted++;
        throw error;
      });
      if (this.failNext > 0) {
        this.failNext--;
        throw new Error('source failed');
      }
      await this.#inner.read(offset, into);
    } finally {
      this.now--;
    }
  }

  async close(): Promise<void> {
    this.closed = true;
  }
}

const bytes = patternBytes(100_003);
type Options = Partial<Pick<CoalescerOptions, 'unitSize' | 'maxFetchSize' | 'maxFetches'>>;
function make(options: Options = {}, delayMs = 1): { blob: CoalescingBlob; source: SlowBlob } {
  const source = new SlowBlob(bytes, delayMs);
  return {
    source,
    blob: new CoalescingBlob(source, { unitSize: 1000, maxFetchSize: 4000, maxFetches: 3, ...options }),
  };
}
async function read(blob: ReadableBlob, offset: number, length: number, signal?: AbortSignal): Promise<void> {
  const into = Buffer.alloc(length);
  await blob.read(offset, into, signal === undefined ? {} : { signal });
  assert.deepEqual(into, bytes.subarray(offset, offset + length));
}

describe('CoalescingBlob', () => {
  test('concurrent readers of one unit share one fetch of the whole unit', async () => {
    const { blob, source } = make();
    await Promise.all([read(blob, 1001, 10), read(blob, 1500, 100), read(blob, 1999, 1)]);
    assert.deepEqual(source.fetches, [[1000, 1000]]);
    await read(blob, 1000, 1);
    assert.equal(source.fetches.length, 2, 'nothing is kept');
  });

  test('a reader joins a fetch that is under way', async () => {
    const { blob, source } = make({}, 20);
    const first = read(blob, 0, 10);
    await sleep(5);
    await Promise.all([first, read(blob, 500, 10)]);
    assert.equal(source.fetches.length, 1);
  });

  test('neighbouring units asked for in one turn are one fetch, up to the limit', async () => {
    const { blob, source } = make();
    await Promise.all([7, 5, 6, 4, 8, 20].map((unit) => read(blob, unit * 1000, 10)));
    assert.deepEqual(
      source.fetches.sort(([a], [b]) => a - b),
      [
        [4000, 4000],
        [8000, 1000],
        [20_000, 1000],
      ],
    );
  });

  test('a large read keeps within the limits and reads the short last unit', async () => {
    const { blob, source } = make();
    await read(blob, 1, bytes.length - 1);
    assert.ok(source.most <= 3);
    assert.ok(source.fetches.every(([, length]) => length <= 4000));
    assert.equal(
      source.fetches.reduce((sum, [, length]) => sum + length, 0),
      bytes.length,
    );
  });

  test('an abort ends one reader, not the others', async () => {
    const { blob, source } = make({}, 20);
    const controller = new AbortController();
    const first = read(blob, 0, 10, controller.signal);
    const second = read(blob, 5, 10);
    await sleep(5);
    controller.abort();
    await assert.rejects(first, { code: 'OBD_ABORTED' });
    await second;
    assert.equal(source.aborted, 0);
  });

  test('a fetch that nobody waits for is aborted, and a later reader gets a new one', async () => {
    const { blob, source } = make({}, 30);
    const controller = new AbortController();
    const first = read(blob, 0, 10, controller.signal);
    await sleep(5);
    controller.abort();
    await assert.rejects(first, { code: 'OBD_ABORTED' });
    await read(blob, 0, 10);
    assert.equal(source.aborted, 1);
    assert.equal(source.fetches.length, 2);
  });

  test('a unit whose readers left before its fetch is never fetched', async () => {
    const { blob, source } = make({ maxFetches: 1 }, 20);
    const busy = read(blob, 50_000, 1);
    await turn();
    const controller = new AbortController();
    const waiting = read(blob, 0, 1, controller.signal);
    controller.abort();
    await assert.rejects(waiting, { code: 'OBD_ABORTED' });
    await busy;
    await blob.close();
    assert.deepEqual(source.fetches, [[50_000, 1000]]);
    assert.ok(source.closed);
  });

  test('a failed fetch fails its readers; the next one tries again', async () => {
    const { blob, source } = make();
    source.failNext = 1;
    const results = await Promise.allSettled([read(blob, 0, 10), read(blob, 10, 10)]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['rejected', 'rejected'],
    );
    await read(blob, 0, 10);
  });

  test('any mix of reads and aborts returns the right bytes and fetches within the limits', async () => {
    const operation = fc.record({
      offset: fc.nat(bytes.length - 1),
      length: fc.nat(6000),
      abortAfter: fc.option(fc.nat(4), { freq: 3 }),
      wait: fc.nat(2),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(operation, { maxLength: 30 }),
        fc.integer({ min: 1, max: 5000 }),
        async (operations, unitSize) => {
          const { blob, source } = make({ unitSize });
          const work: Promise<unknown>[] = [];
          for (const { offset, length, abortAfter, wait } of operations) {
            const controller = new AbortController();
            if (abortAfter !== null)
              setTimeout(() => {
                controller.abort();
              }, abortAfter);
            const task = read(blob, offset, Math.min(length, bytes.length - offset), controller.signal);
            work.push(
              task.catch((error: unknown) => {
                assert.equal((error as { code?: string }).code, 'OBD_ABORTED');
                assert.notEqual(abortAfter, null);
              }),
            );
            if (wait > 0) await sleep(wait);
          }
          await Promise.all(work);
          await blob.close();
          assert.ok(source.most <= 3);
          assert.ok(
            source.fetches.every(
              ([offset, length]) => offset % unitSize === 0 && length <= Math.max(4000, unitSize),
            ),
          );
        },
      ),
      { numRuns: 40 },
    );
  });
});
