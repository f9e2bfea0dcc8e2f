/**
 * test/fuzz/native under AddressSanitizer and UndefinedBehaviorSanitizer: what a kernel, an image or a disk may say to
 * native code. Input number i depends on the seed and i alone. OBD_FUZZ_SEED picks the seed, OBD_FUZZ_NATIVE the number
 * of inputs of all targets together.
 *
 * What once went wrong stays under test/fixtures/fuzz, named TARGET-WHAT, and is replayed:
 * - ext4-first-data-block: a super block whose first block was not 0 made libext2fs write 4 KiB beyond its bitmap.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { checkout } from '../support/fixtures.js';

const SOURCES =
  'executor read_steps block_cache codec crc32c tcmu_ring scsi scsi_identity segment_merge fuse_handler fuse_protocol pack inflate unzstd zfile_stream ext4_alloc ext4_channel ext4_dir ext4_dir_index ext4_extent ext4_file ext4_image ext4_inode ext4_layer ext4_names ext4_open ext4_source ext4_store ext4_xattr file_load load_meter'.split(
    ' ',
  );
/** Inputs of each target in a thousand: the faster, the more. */
const SHARES = {
  scsi: 480,
  merge: 180,
  ring: 150,
  codec: 80,
  plan: 50,
  unzstd: 25,
  inflate: 20,
  pack: 12,
  fuse: 5,
  ext4: 1,
};
const FLAGS = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all'];
const seed = process.env['OBD_FUZZ_SEED'] ?? '1';
const inputs = Number(process.env['OBD_FUZZ_NATIVE'] ?? 60_000);
const fixtures = join(checkout, 'test/fixtures/fuzz');
const dir = mkdtempSync(join(tmpdir(), 'obd-fuzz-'));
const program = join(dir, 'fuzz');
after(() => {
  // A crash leaves its input there.
  if (!readdirSync(dir).some((name) => name.startsWith('crash-'))) rmSync(dir, { recursive: true });
});

function compile(sources: readonly string[], out: string): string | undefined {
  const built = spawnSync(
    'cc',
    [
      ...'-std=gnu11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Wno-unused-parameter'.split(' '),
      ...['-Wno-missing-field-initializers', ...FLAGS, '-I', join(checkout, 'native')],
      ...['-I', join(checkout, 'test/fuzz/native'), ...sources],
      ...'-llz4 -lzstd -lz -lext2fs -lcom_err -lpthread -o'.split(' '),
      out,
    ],
    { encoding: 'utf8' },
  );
  return built.status === 0 ? undefined : (built.error?.message ?? built.stderr);
}

function skip(): string | false {
  const empty = join(dir, 'empty.c');
  writeFileSync(empty, 'int main(void) { return 0; }\n');
  return compile([empty], join(dir, 'empty')) === undefined
    ? false
    : `this compiler cannot: cc ${FLAGS.join(' ')}`;
}

function run(target: string, args: readonly string[]): void {
  const done = spawnSync(program, [target, ...args], {
    cwd: dir,
    encoding: 'utf8',
    env: { ...process.env, ASAN_OPTIONS: 'quarantine_size_mb=1:malloc_context_size=5' },
  });
  assert.match(
    done.stdout,
    new RegExp(`^${target}: \\d+ inputs\n$`),
    `seed ${seed}, ${target} ended with ${done.signal ?? done.status}; input in ${dir}/crash-${target}\n${done.stderr}`,
  );
}

test(`native code bears damaged input (seed ${seed})`, { skip: skip() }, async (t) => {
  const directory = join(checkout, 'test/fuzz/native');
  const own = readdirSync(directory).filter((name) => name.endsWith('.c'));
  const sources = [
    ...own.map((name) => join(directory, name)),
    ...SOURCES.map((name) => join(checkout, 'native', `${name}.c`)),
  ];
  assert.equal(compile(sources, program), undefined);
  for (const [target, share] of Object.entries(SHARES)) {
    const count = Math.ceil((inputs * share) / 1003);
    await t.test(`${count} of ${target}`, () => {
      const old = existsSync(fixtures) ? readdirSync(fixtures) : [];
      const files = old.filter((name) => name.startsWith(`${target}-`)).map((name) => join(fixtures, name));
      if (files.length > 0) run(target, ['--replay', ...files]);
      run(target, [String(count), seed]);
    });
  }
});
