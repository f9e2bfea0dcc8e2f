/**
 * Whatever bytes a parser is given, it reads them or refuses them with an {@link OverlaybdError}: no TypeError, no hang,
 * no memory without bound. A failure prints seed, format and input number and keeps the input:
 *
 *   OBD_FUZZ_SEED=7 OBD_FUZZ_INPUTS=1000000 node --test dist/test/fuzz/parsers.test.js
 *
 * OBD_FUZZ_INPUTS counts all formats together; without a seed it is 1, so that a run of the test suite can be repeated.
 * OBD_FUZZ_FORMAT picks one format.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { OverlaybdError } from '../../src/blob/index.js';
import { formats, type Format } from './formats.js';
import { Chance, mutated } from './mutate.js';

const seed = Number(process.env['OBD_FUZZ_SEED'] ?? 1);
const inputs = Number(process.env['OBD_FUZZ_INPUTS'] ?? 20_000);
const only = process.env['OBD_FUZZ_FORMAT'];
/** One input is a few hundred kilobytes at most; a machine under load may stop us for seconds. */
const MAX_INPUT_MS = 30_000;
/**
 * Of what is freed, malloc keeps some in pieces: 270 MiB after 160,000 inputs of NBD, as after 40,000. (It was 1.3 GiB while
 * the clock of each input's device kept that for a second.)
 */
const MAX_MEMORY_GROWTH = 640 * 2 ** 20;

function keep(format: Format, input: number, bytes: Buffer): string {
  const path = join(mkdtempSync(join(tmpdir(), 'obd-fuzz-')), `${format.name.replace(/\W/g, '-')}-${input}`);
  writeFileSync(path, bytes);
  return path;
}

/** What is wrong with the outcome; undefined if nothing is. */
async function fault(format: Format, bytes: Buffer): Promise<string | undefined> {
  const start = performance.now();
  try {
    await format.run(bytes);
  } catch (error) {
    const refused =
      error instanceof OverlaybdError || (error instanceof Error && format.refusal?.(error) === true);
    if (!refused) return error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  const took = performance.now() - start;
  return took > MAX_INPUT_MS ? `took ${Math.round(took)} ms` : undefined;
}

const all = await formats();
const shares = all.reduce((sum, { share }) => sum + share, 0);
for (const format of all) {
  if (only !== undefined && only !== format.name) continue;
  const count = Math.ceil((inputs * format.share) / shares);
  test(`${count} damaged inputs of ${format.name} are read or refused (seed ${seed})`, async () => {
    for (const good of format.seeds)
      assert.equal(await fault(format, Buffer.from(good)), undefined, 'a good input');
    const before = process.memoryUsage();
    for (let input = 0; input < count; input++) {
      // V8 and Node.js give back the memory of buffers between turns of the event loop, and some formats never wait.
      if (input % 64 === 0) await nextTurn();
      const chance = new Chance(seed, input);
      const bytes = mutated(format.seeds, chance, format.places);
      if (chance.below(4) > 0) format.mend?.(bytes);
      const wrong = await fault(format, bytes);
      if (wrong === undefined) continue;
      assert.fail(
        `seed ${seed}, ${format.name}, input ${input}, kept as ${keep(format, input, bytes)}: ${wrong}`,
      );
    }
    const { rss } = process.memoryUsage();
    assert.ok(rss - before.rss < MAX_MEMORY_GROWTH, `memory grew from ${before.rss} to ${rss} bytes`);
  });
}
