/** The native data path under the compiler's sanitizers, without Node: test/native/stress/stress.c says what it does. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { checkout } from '../support/fixtures.js';

const SOURCES =
  'io_loop io_loop_plan io_loop_wait io_meter io_pool io_queue io_spin io_stage executor read_steps block_cache codec crc32c fake_ring fake_ring_load load_meter tcmu_ring tcmu_handler scsi scsi_identity segment_merge'.split(
    ' ',
  );
const dir = mkdtempSync(join(tmpdir(), 'obd-stress-'));
after(() => {
  rmSync(dir, { recursive: true });
});

function compiles(flags: readonly string[]): string | false {
  const source = join(dir, 'empty.c');
  writeFileSync(source, 'int main(void) { return 0; }\n');
  const run = spawnSync('cc', [...flags, source, '-o', join(dir, 'empty')], { encoding: 'utf8' });
  return run.status === 0 ? false : `this compiler cannot: cc ${flags.join(' ')}`;
}

/** Builds a program of test/native/stress with a sanitizer and runs it. */
function runStress(program: string, sources: readonly string[], flag: string, seed: string): void {
  const path = join(dir, `${program}-${flag.replace(/\W/g, '-')}`);
  const built = spawnSync(
    'cc',
    [
      ...'-std=gnu11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Wno-unused-parameter'.split(' '),
      ...['-Wno-missing-field-initializers', '-fno-sanitize-recover=all', flag],
      ...['-I', join(checkout, 'native'), join(checkout, 'test/native/stress', `${program}.c`)],
      ...sources.map((name) => join(checkout, 'native', `${name}.c`)),
      ...['-llz4', '-lzstd', '-lpthread', '-o', path],
    ],
    { encoding: 'utf8' },
  );
  assert.equal(built.status, 0, built.stderr);
  const run = spawnSync(path, [join(dir, 'device'), seed], { encoding: 'utf8', timeout: 120_000 });
  assert.equal(run.stdout, 'done\n', `seed ${seed}: ${run.signal ?? run.status}\n${run.stderr}`);
  assert.equal(run.status, 0, run.stderr);
}

for (const sanitizer of ['address,undefined', 'thread']) {
  const flag = `-fsanitize=${sanitizer}`;
  test(`the native data path is clean under ${flag}`, { skip: compiles([flag]) }, () => {
    runStress('stress', SOURCES, flag, String(Date.now() % 100000));
  });
  test(`ZFiles are packed without a race or a leak under ${flag}`, { skip: compiles([flag]) }, () => {
    runStress('zfile_stream', ['zfile_stream', 'pack', 'codec', 'crc32c'], flag, '1');
  });
}
