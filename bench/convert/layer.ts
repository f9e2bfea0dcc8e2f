/**
 * From a layer tar to a committed blob: how fast, in how much memory, how large.
 *
 *   node dist/bench/convert/layer.js [TAR] [--zstd] [--runs N] [--dir DIR]
 *
 * Without a tar one is made of this machine's /usr (about 500 MB). DIR, default /dev/shm, holds it and the work files,
 * so that no disk is measured. A tar.gz or tar.zst may be given as well; the rate is that of the file given. The reference (C++, apply + commit, same kind of machine): 500 MB in 2.0 s with LZ4,
 * 5.3 s with zstd.
 */
import { spawnSync } from 'node:child_process';
import { createReadStream, existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { applyLayer, unpackLayer, writeLayer } from '../../src/convert/index.js';
import { Codec, Ext4Image, StreamDigest } from '../../src/native/index.js';
import { readTar } from '../../src/tar/index.js';

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

async function* bytesOf(path: string): AsyncGenerator<Uint8Array> {
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) yield chunk as Uint8Array;
}

async function run(): Promise<void> {
  const started = performance.now();
  const cpu = process.cpuUsage();
  const image = await Ext4Image.format(dir, 64 * 2 ** 30);
  try {
    const hash = new StreamDigest('sha256');
    async function* hashed(): AsyncGenerator<Uint8Array> {
      for await (const chunk of unpackLayer(bytesOf(tar), tar)) {
        await hash.update(chunk);
        yield chunk;
      }
      await hash.end();
    }
    let applied = 0;
    const { file: layer, result: counts } = await writeLayer(
      image,
      {
        workDir: dir,
        uuid: null,
        parentUuid: null,
        zfile: { codec: values.zstd === true ? Codec.ZSTD : Codec.LZ4 },
      },
      async () => {
        const counts = await applyLayer(image, readTar(hashed(), tar));
        applied = performance.now();
        return counts;
      },
    );
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
