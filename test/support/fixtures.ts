import { existsSync } from 'node:fs';
import { resolve, join } from 'node:path';

/** Root of the checkout, from dist/test/support. */
export const checkout = resolve(import.meta.dirname, '..', '..', '..');

/** Directory of the reference's golden images (README.md there), or undefined where it is not. Never written to. */
export const fixturesDir: string | undefined = [
  process.env['OBD_FIXTURES'],
  join(checkout, '..', 'shared', 'fixtures'),
].find((dir) => dir !== undefined && existsSync(join(dir, 'sets.json')));

/** For node:test's `skip`: false where the golden images are, otherwise the reason. */
export const noFixtures: string | false =
  fixturesDir === undefined &&
  'golden images not found: expected ../shared/fixtures or $OBD_FIXTURES with sets.json';

/** Path below the golden images. Call it only in tests guarded by {@link noFixtures}. */
export function fixture(...parts: string[]): string {
  if (fixturesDir === undefined) throw new Error('Test is not guarded by noFixtures');
  return join(fixturesDir, ...parts);
}
