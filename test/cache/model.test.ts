import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { localFileOf } from '../../src/blob/index.js';
import { BlobCache } from '../../src/cache/index.js';
import { silentLogger } from '../../src/log/index.js';
import { makeSource, readRange } from './cache-fixture.js';

type Step =
  | { readonly do: 'read' | 'refetch' | 'through'; readonly offset: number; readonly length: number }
  | { readonly do: 'flush' | 'reopen' | 'fail' };

const SIZE = 40 * 64 + 3;

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant('read' as const), offset: fc.nat(SIZE - 1), length: fc.nat(400) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constantFrom('refetch' as const, 'through' as const),
      offset: fc.nat(SIZE - 1),
      length: fc.nat(200),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constantFrom('flush' as const, 'reopen' as const, 'fail' as const) }),
  },
);

test('BlobCache with tiny units gives right bytes for any sequence of steps, and fetches what it has only if asked', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(step, { minLength: 1, maxLength: 5 }), { maxLength: 12 }),
      fc.constantFrom(2 ** 20, 16 << 10),
      fc.integer({ min: 1, max: 200 }),
      async (batches, capacity, unitSize) => {
        const dir = mkdtempSync(join(tmpdir(), 'obd-cache-'));
        const make = (): Promise<BlobCache> =>
          BlobCache.open({
            dir,
            capacity,
            minFree: 0,
            unitSize,
            maxRunBytes: 3 * unitSize,
            commitIntervalMs: 2,
            log: silentLogger,
          });
        const { source, open } = makeSource(SIZE);
        let cache = await make();
        let blob = await open(cache);
        try {
          for (const batch of batches) {
            if (batch.some((one) => one.do === 'reopen')) {
              await blob.close();
              await cache.close();
              cache = await make();
              blob = await open(cache);
            }
            const failing = batch.some((one) => one.do === 'fail');
            if (failing)
              source.onRead = () => {
                throw new Error('down');
              };
            // All steps of a batch at once.
            const results = await Promise.allSettled(
              batch.map(async (one) => {
                if (!('offset' in one)) return one.do === 'flush' ? cache.flush() : undefined;
                const length = Math.min(one.length, SIZE - one.offset);
                if (one.do === 'refetch') return blob.refetch(one.offset, length);
                const into = new Uint8Array(length);
                if (one.do === 'through') await blob.readThrough(one.offset, into);
                else await blob.read(one.offset, into);
                assert.deepEqual(into, source.plain.slice(one.offset, one.offset + length));
                return undefined;
              }),
            );
            source.onRead = () => undefined;
            for (const result of results)
              if (result.status === 'rejected') assert.match(String(result.reason), failing ? /down/ : /^$/);
            // What is present is right, and reading it asks nobody.
            const presence = localFileOf(blob)?.presence ?? new Uint8Array();
            await cache.flush();
            const before = source.requests.length;
            for (let unit = 0; unit < presence.length; unit++) {
              if (presence[unit] !== 1) continue;
              const end = Math.min(SIZE, (unit + 1) * unitSize);
              assert.deepEqual(
                await readRange(blob, unit * unitSize, end - unit * unitSize),
                source.plain.slice(unit * unitSize, end),
              );
            }
            if (capacity === 2 ** 20) assert.equal(source.requests.length, before);
          }
        } finally {
          await blob.close();
          await cache.close();
          rmSync(dir, { recursive: true });
        }
      },
    ),
    { numRuns: 25 },
  );
});
