/** Planner module of test/support/tcmu-service.ts: raw files and images. */
import type { ReadPlanner } from '../../src/blob/index.js';
import { createPlanner as imagePlanner, type ImageDescription } from '../../src/image/planner.js';
import { createPlanner as rawPlanner, type RawDescription } from './raw-planner.js';

export function createPlanner(description: RawDescription | ImageDescription): ReadPlanner {
  return 'piece' in description ? rawPlanner(description) : imagePlanner(description);
}
