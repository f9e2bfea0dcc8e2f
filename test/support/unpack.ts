import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { decompress } from 'zstd-napi';
import { fixture } from './fixtures.js';

/** A temporary directory that lives as long as the test (or suite, given its `after`). */
export function tempDir(t: Pick<TestContext, 'after'>): string {
  const dir = mkdtempSync(join(tmpdir(), 'obd-test-'));
  t.after(() => {
    rmSync(dir, { recursive: true, force: true });
  });
  return dir;
}

/**
 * A copy of one folder of the golden images with its `.zst` files unpacked, sparse files kept sparse; other files are
 * links to the originals. `@DIR@` in the JSON configurations of {@link readConfig} is this copy.
 */
export function unpackFixture(t: Pick<TestContext, 'after'>, ...parts: string[]): string {
  const dir = tempDir(t);
  const from = fixture(...parts);
  for (const name of readdirSync(from)) {
    const path = join(from, name);
    if (name.endsWith('.tar.zst')) {
      const run = spawnSync('tar', ['-xS', '-C', dir], {
        input: decompress(readFileSync(path)),
        stdio: ['pipe', 'inherit', 'inherit'],
      });
      if (run.status !== 0)
        throw new Error(`tar -x of ${path} ended with ${run.status ?? run.signal ?? '?'}`);
    } else if (name.endsWith('.zst'))
      writeFileSync(join(dir, name.slice(0, -4)), decompress(readFileSync(path)));
    else symlinkSync(path, join(dir, name));
  }
  return dir;
}
