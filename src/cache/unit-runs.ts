/** Consecutive units: [first, count]. */
export type UnitRun = readonly [first: number, count: number];

/** Units in any order, each once or more, as ascending runs that do not touch. */
export function unitRuns(units: Iterable<number>): UnitRun[] {
  const runs: [number, number][] = [];
  for (const unit of [...units].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && unit < last[0] + last[1]) continue;
    if (last && unit === last[0] + last[1]) last[1]++;
    else runs.push([unit, 1]);
  }
  return runs;
}
