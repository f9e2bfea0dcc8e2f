/**
 * `obd bench convert` with a tar that every machine has: from a layer tar to a committed blob, how fast, in how much
 * memory, how large.
 *
 *   node dist/bench/convert/layer.js [TAR] [--zstd] [--runs N] [--dir DIR]
 *
 * Without a tar one is made of this machine's /usr (about 500 MB). DIR, default /dev/shm, holds it and the work files,
 * so that no disk is measured. A tar.gz or tar.zst may be given as well; the rate is that of the file given. The
 * reference (C++, apply + commit, same kind of machine): 500 MB in 2.0 s with LZ4, 5.3 s with zstd.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { conversionTimes, tableOf } from '../../src/bench/index.js';
import { formatTable } from '../../src/cli/units.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { zstd: { type: 'boolean' }, runs: { type: 'string' }, dir: { type: 'string' } },
});
const dir = values.dir ?? (existsSync('/dev/shm') ? '/dev/shm' : '/tmp');
const made = join(dir, `obd-bench-${process.pid}.tar`);
const tar = positionals[0] ?? made;

/** Packs files of /usr, as a distribution's root has them: a third each of documents, libraries and programs. */
function makeTar(path: string): void {
  const list = ['usr/share', 'usr/lib', 'usr/bin'].flatMap((directory) => {
    let left = 175e6;
    const files = spawnSync('find', [directory, '-xdev', '-type', 'f', '-printf', '%s %p\\0'], {
      cwd: '/',
      encoding: 'latin1',
      maxBuffer: 2 ** 28,
    }).stdout.split('\0');
    const sized = files.map((line) => ({
      size: parseInt(line, 10),
      name: line.slice(line.indexOf(' ') + 1),
    }));
    return sized
      .filter(({ name, size }) => size < 30e6 && name !== '')
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .filter(({ size }) => (left -= size + 512) > 0)
      .map(({ name }) => name);
  });
  spawnSync('tar', ['-cf', path, '-C', '/', '--null', '--no-recursion', '--verbatim-files-from', '-T', '-'], {
    input: Buffer.from(list.join('\0'), 'latin1'),
  });
}

if (tar === made) makeTar(made);
try {
  const rows = await conversionTimes(tar, {
    zstd: values.zstd === true,
    blockSize: 4096,
    workDir: dir,
    runs: Number(values.runs ?? 3),
  });
  process.stdout.write(formatTable(tableOf(rows)));
} finally {
  rmSync(made, { force: true });
}
