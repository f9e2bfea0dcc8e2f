import assert from 'node:assert/strict';
import test from 'node:test';
import { PrefetchTotals } from '../../src/prefetch/index.js';

test('PrefetchTotals tells what is to come from what was left', () => {
  const totals = new PrefetchTotals();
  const one = { running: true, progress: { jobs: 10, jobsDone: 4, failures: 1, bytes: 3000 } };
  totals.add(one);
  const sums = { done: 3, failed: 1, left: 0, bytes: 3000, pending: 6, running: 1 };
  assert.deepEqual(totals.sums, sums);
  totals.add({ running: false, progress: { jobs: 2, jobsDone: 2, failures: 0, bytes: 5 } });
  assert.deepEqual(totals.sums, { ...sums, done: 5, bytes: 3005 });
  one.running = false;
  totals.remove(one);
  totals.remove(one);
  assert.deepEqual(totals.sums, { ...sums, done: 5, bytes: 3005, left: 6, pending: 0, running: 0 });
});
