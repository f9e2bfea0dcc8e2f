/**
 * From a layer tar to a committed blob: how fast, in how much memory, how large.
 *
 *   node dist/bench/convert/layer.js [TAR] [--zstd] [--runs N] [--dir DIR]
 *
 * Without a tar one is made of this machine's /usr (at most 500 MB). DIR, default /dev/shm, holds it and the work files,
 * so that no disk is measured. The reference (C++, apply + commit, same kind of machine): 500 MB in 2.0 s with LZ4,
 * 5.3 s with zstd.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { applyLayer, unpackLayer, writeLayer } from '../../src/convert/index.js';
import { Codec, Ext4Image } from '../../src/native/index.js';
import { readTar } from '../../src/tar/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { zstd: { type: 'boolean' }, runs: { type: 'string' }, dir: { type: 'string' } },
});
const dir = values.dir ?? (existsSync('/dev/shm') ? '/dev/shm' : '/tmp');
const made = join(dir, `obd-bench-${process.pid}.tar`);
const tar = positionals[0] ?? made;

/** Packs directories of /usr, one after the other, until there is enough. */
function makeTar(path: string): void {
  const script = `tar -cf "$1" --sort=name -C / usr/bin usr/share usr/lib 2>/dev/null | true; truncate -s '<524288000' "$1"`;
  spawnSync('sh', ['-c', script, 'sh', path]);
}

/** The largest prefix of an archive that is a whole archive: a missing end is accepted, a cut member is not. */
async function* wholeMembers(path: string): AsyncGenerator<Uint8Array> {
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) yield chunk as Uint8Array;
  // Zeros in place of what was cut off.
  if (path === made) for (let i = 0; i < 256; i++) yield new Uint8Array(2 ** 20);
}

async function run(): Promise<void> {
  const started = performance.now();
  const cpu = process.cpuUsage();
  const image = await Ext4Image.format(dir, 64 * 2 ** 30);
  try {
    const hash = createHash('sha256');
    async function* hashed(): AsyncGenerator<Uint8Array> {
      for await (const chunk of unpackLayer(wholeMembers(tar), tar)) {
        hash.update(chunk);
        yield chunk;
      }
    }
    const counts = await applyLayer(image, readTar(hashed(), tar));
    const applied = performance.now();
    const layer = await writeLayer(image, {
      workDir: dir,
      uuid: null,
      parentUuid: null,
      zfile: { codec: values.zstd === true ? Codec.ZSTD : Codec.LZ4 },
    });
    const ended = performance.now();
    await layer.blob.close();
    const { user, system } = process.cpuUsage(cpu);
    const size = statSync(tar).size;
    const peak = /VmHWM:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    const seconds = (ms: number): string => (ms / 1000).toFixed(2);
    process.stdout.write(
      `${counts.entries} entries, ${(size / 1e6).toFixed(0)} MB: apply ${seconds(applied - started)} s, ` +
        `write ${seconds(ended - applied)} s, together ${seconds(ended - started)} s ` +
        `(${(size / 1e3 / (ended - started)).toFixed(0)} MB/s), CPU ${seconds((user + system) / 1000)} s, ` +
        `blob ${(layer.size / 1e6).toFixed(1)} MB, peak memory ${(Number(peak) / 1024).toFixed(0)} MiB\n`,
    );
  } finally {
    image.close();
  }
}

if (tar === made) makeTar(made);
try {
  for (let i = 0; i < Number(values.runs ?? 3); i++) await run();
} finally {
  rmSync(made, { force: true });
}
