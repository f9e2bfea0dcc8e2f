import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planFetches, replay, type Job, type TracedLayer } from '../../src/prefetch/index.js';
import { silentLogger } from '../../src/log/index.js';
import { warningLog } from './warnings.js';

const PAGE = 4096;

function layer(number: number, pages = 1000): TracedLayer {
  return {
    number,
    size: pages * PAGE,
    storedSize: pages * PAGE - 100,
    unitSize: PAGE,
    stored: (offset, length) => ({ offset, length: Math.min(length, pages * PAGE - 100 - offset) }),
  };
}

const page = (number: number, first: number, count = 1) => ({
  layer: number,
  offset: first * PAGE,
  count: count * PAGE,
});

async function plan(records: Parameters<typeof planFetches>[0], layers = [layer(0), layer(1)], lowers = 3) {
  const { fetches, misfits } = await planFetches(records, layers, lowers);
  return {
    misfits,
    fetches: fetches.map((f) => [f.layer.number, f.offset / PAGE, Math.ceil(f.length / PAGE)]),
  };
}

test('planFetches() joins neighbours, small gaps included, and keeps the order of need', async () => {
  assert.deepEqual(await plan([page(0, 7), page(1, 3), page(0, 8), page(0, 10), page(0, 7), page(1, 90)]), {
    misfits: 0,
    fetches: [
      [0, 7, 4],
      [1, 3, 1],
      [1, 90, 1],
    ],
  });
});

test('planFetches() does not let what is needed late come first', async () => {
  const early = [page(0, 500, 32)];
  const late = [page(1, 1), page(0, 532)];
  assert.deepEqual((await plan([...early, ...late])).fetches, [
    [0, 500, 32],
    [1, 1, 1],
    [0, 532, 1],
  ]);
});

test('planFetches() bounds one fetch, and ends at the end of the blob', async () => {
  const { fetches } = await plan([page(0, 0, 1000)]);
  assert.equal(
    fetches.reduce((sum, [, , pages = 0]) => sum + pages, 0),
    1000,
  );
  for (const [, , pages = 0] of fetches) assert.ok(pages <= 64);
});

test('planFetches() passes over what is local, and counts what fits no layer', async () => {
  assert.deepEqual(await plan([page(2, 1), page(3, 1), page(0, 999, 2), page(0, 5)]), {
    misfits: 2,
    fetches: [[0, 5, 1]],
  });
});

test('planFetches() of a hostile trace ends soon', { timeout: 20_000 }, async () => {
  const huge = layer(0, 1 << 20);
  const records = Array.from({ length: 100_000 }, () => ({ layer: 0, offset: 0, count: 16 << 20 }));
  const { fetches } = await plan(records, [huge]);
  assert.equal(fetches.length, (16 << 20) / (256 << 10));
});

/** Jobs that record how they overlap. */
function jobs(count: number, run: (i: number) => Promise<number>): { jobs: Job[]; most: () => number } {
  let running = 0;
  let most = 0;
  return {
    most: () => most,
    jobs: Array.from({ length: count }, (_, i) => ({
      length: 1024,
      where: { i },
      run: async () => {
        most = Math.max(most, ++running);
        try {
          await new Promise((resolve) => setTimeout(resolve, 2));
          return await run(i);
        } finally {
          running--;
        }
      },
    })),
  };
}

const options = () => ({ concurrency: 4, log: silentLogger, signal: new AbortController().signal });

test('replay() runs so many jobs at once as it may, in order', async () => {
  const begun: number[] = [];
  const { jobs: list, most } = jobs(40, async (i) => begun.push(i));
  const progress = await replay(list, options());
  assert.equal(most(), 4);
  assert.deepEqual(progress.jobsDone, 40);
  assert.equal(progress.failures, 0);
  assert.deepEqual(begun.slice(0, 4).toSorted(), [0, 1, 2, 3]);
});

test('replay() counts failures, logs the first, and gives up when nothing works', async () => {
  const { jobs: some } = jobs(40, async (i) => {
    if (i % 2 === 0) throw new Error('no');
    return 10;
  });
  const { log, warnings } = warningLog();
  const half = await replay(some, { ...options(), log });
  assert.deepEqual([half.jobsDone, half.failures, half.bytes], [40, 20, 200]);
  assert.equal(warnings.length, 1);
  const { jobs: all } = jobs(1000, async () => {
    throw new Error('no');
  });
  const none = await replay(all, options());
  assert.ok(none.jobsDone < 50, `${none.jobsDone} jobs were tried`);
});

test('replay() stops when it is told to', async () => {
  const controller = new AbortController();
  const { jobs: list } = jobs(1000, async (i) => {
    if (i === 5) controller.abort();
    return 1;
  });
  const progress = await replay(list, { ...options(), signal: controller.signal });
  assert.ok(progress.jobsDone < 20);
});
