import assert from 'node:assert/strict';
import { execFile, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { nbdUri } from '../../src/blockdev/index.js';
import { AppendLayer, SparseLayer } from '../../src/lsmt/index.js';
import { missing } from '../support/commands.js';
import { differingChunks, readDeviceDump } from '../support/device-dump.js';
import { checkout, noFixtures } from '../support/fixtures.js';
import { unpackedFixtures } from '../support/golden-images.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const noClients = missing({
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
});

/** For node:test's `skip`. */
function noNbdEngine(): string | false {
  const engines = spawnSync('fio', ['--enghelp'], { encoding: 'utf8' }).stdout;
  return !/^\s*nbd$/m.test(engines) && 'this fio has no nbd engine';
}

interface Server {
  readonly uri: string;
  readonly child: ChildProcess;
  /** Tells it to stop; gives the exit status and what it said on stderr. */
  stop(): Promise<{ status: number | null; stderr: string }>;
}

async function serve(t: TestContext, dir: string, ...args: string[]): Promise<Server> {
  const socket = join(dir, 'nbd.sock');
  const child = spawn(process.execPath, [join(checkout, 'bin', 'obd'), 'nbd', ...args, socket], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.after(() => child.kill('SIGKILL'));
  let stderr = '';
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
  const closed = once(child, 'close') as Promise<[number | null]>;
  const first = await Promise.race([
    once(child.stdout, 'data') as Promise<[Buffer]>,
    closed.then(() => undefined),
  ]);
  assert.ok(first !== undefined, stderr);
  const uri = first[0].toString().trim();
  assert.equal(uri, nbdUri(socket));
  return {
    uri,
    child,
    async stop() {
      child.kill('SIGTERM');
      const [status] = await closed;
      assert.equal(existsSync(socket), false, 'the socket is gone');
      return { status, stderr };
    },
  };
}

/** Puts the configuration of a golden image where it can be named. */
function configFile(dir: string, image: string): string {
  const path = join(dir, 'image.json');
  const from = join(unpackedFixtures(), image);
  writeFileSync(path, readFileSync(from, 'utf8').replaceAll('@DIR@', join(from, '..')));
  return path;
}

test('obd nbd serves a stack of layers, holes included', { skip: noClients || noFixtures }, async (t) => {
  const dir = tempDir(t);
  const server = await serve(t, dir, '--config', configFile(dir, 'small/native-lz4/image.json'));
  const info = JSON.parse((await run('nbdinfo', ['--json', server.uri])).stdout) as {
    exports: { 'export-size': number; is_read_only: boolean; contexts: string[] }[];
  };
  const dump = readDeviceDump(join(unpackedFixtures(), 'small/native-lz4/device.json'));
  assert.equal(info.exports[0]?.['export-size'], dump.virtualSize);
  assert.equal(info.exports[0].is_read_only, true);
  const map = JSON.parse((await run('nbdinfo', ['--map', '--json', server.uri])).stdout) as {
    length: number;
    type: number;
  }[];
  const data = map.filter(({ type }) => type === 0).reduce((sum, { length }) => sum + length, 0);
  assert.ok(data > 0 && data < 2 ** 30, `${data} bytes of data`);
  const copy = join(dir, 'copy');
  await run('nbdcopy', [server.uri, copy]);
  assert.deepEqual(differingChunks(copy, dump), []);
  assert.deepEqual(await server.stop(), { status: 0, stderr: '' });
});

for (const kind of ['append', 'sparse'] as const)
  test(`obd nbd takes writes to ${kind} layers, which survive it`, { skip: noClients }, async (t) => {
    const dir = tempDir(t);
    const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
    const made =
      kind === 'append'
        ? await AppendLayer.create(paths, { virtualSize: 64 << 20 })
        : await SparseLayer.create(paths.data, { virtualSize: 64 << 20 });
    await made.close();
    const config = join(dir, 'image.json');
    writeFileSync(config, JSON.stringify({ lowers: [], upper: paths }));

    let server = await serve(t, dir, '--config', config);
    const io = (...commands: string[]): Promise<{ stdout: string; stderr: string }> =>
      run('qemu-io', ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), server.uri]);
    await io('write -P 7 4096 1M', 'write -P 9 33554432 64k', 'discard 8192 4096', 'flush');
    assert.equal((await server.stop()).status, 0);

    server = await serve(t, dir, '--config', config, '--read-only');
    const { stdout } = await run('qemu-io', [
      '-r',
      '-f',
      'raw',
      ...[
        'read -P 7 4096 4096',
        'read -P 0 8192 4096',
        'read -P 7 12288 1040384',
        'read -P 9 33554432 64k',
        'read -P 0 40M 24M',
      ].flatMap((command) => ['-c', command]),
      server.uri,
    ]);
    assert.doesNotMatch(stdout, /verification failed/);
    await assert.rejects(io('write 0 512'), /Permission denied/);
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', server.uri, server.uri]);
    assert.equal((await server.stop()).status, 0);
    assert.ok(!readdirSync(dir).some((name) => name.includes('damaged')));
  });

for (const kind of ['append', 'sparse'] as const)
  test(
    `fio finds every byte that it wrote to a disk on ${kind} layers over NBD`,
    { skip: missing({ fio: 'fio' }) || noNbdEngine() },
    async (t) => {
      const dir = tempDir(t);
      const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
      const made =
        kind === 'append'
          ? await AppendLayer.create(paths, { virtualSize: 64 << 20 })
          : await SparseLayer.create(paths.data, { virtualSize: 64 << 20 });
      await made.close();
      const config = join(dir, 'image.json');
      writeFileSync(config, JSON.stringify({ lowers: [], upper: paths }));
      const fio = (...args: string[]): Promise<unknown> =>
        run('fio', [
          ...[
            '--name=x',
            '--ioengine=nbd',
            `--uri=${server.uri}`,
            '--iodepth=32',
            '--verify_fatal=1',
            '--verify_state_save=0',
          ],
          ...['--rw=randwrite', '--bsrange=512-64k', '--blockalign=512', '--size=16m', '--randseed=5'],
          ...args,
        ]);
      let server = await serve(t, dir, '--config', config);
      await fio('--verify=sha256', '--loops=2', '--fsync=64');
      await fio('--verify=crc32c', '--do_verify=0');
      assert.deepEqual(await server.stop(), { status: 0, stderr: '' });
      if (kind === 'append')
        await run(process.execPath, [join(checkout, 'bin/obd'), 'compact', '--quiet', '--config', config]);
      server = await serve(t, dir, '--config', config, '--read-only');
      await fio('--verify=crc32c', '--verify_only=1');
      assert.deepEqual(await server.stop(), { status: 0, stderr: '' });
    },
  );

test('qemu-img converts to and from an image over NBD', { skip: noClients }, async (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  const disk = Buffer.alloc(24 << 20);
  for (let i = 0; i < disk.length; i += 3 << 20) randomFillSync(disk, i, 1 << 20);
  writeFileSync(at('raw'), disk);
  const paths = { data: at('data'), index: at('index') };
  await (await AppendLayer.create(paths, { virtualSize: disk.length })).close();
  writeFileSync(at('image.json'), JSON.stringify({ lowers: [], upper: paths }));
  const server = await serve(t, dir, '--config', at('image.json'));
  await run('qemu-img', ['convert', '-n', '-W', '-m', '8', '-f', 'raw', '-O', 'raw', at('raw'), server.uri]);
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', at('raw'), server.uri]);
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', server.uri, at('qcow2')]);
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', at('raw'), at('qcow2')]);
  await run('nbdcopy', ['--connections=4', '--flush', at('raw'), server.uri]);
  await run('nbdcopy', ['--connections=4', server.uri, at('back')]);
  assert.ok(readFileSync(at('back')).equals(disk));
  const list = JSON.parse((await run('nbdinfo', ['--list', '--json', server.uri])).stdout) as {
    exports: { 'export-name': string; can_multi_conn: boolean }[];
  };
  assert.deepEqual(
    list.exports.map((e) => [e['export-name'], e.can_multi_conn]),
    [['', true]],
  );
  assert.deepEqual(await server.stop(), { status: 0, stderr: '' });
});

test('obd nbd says why it cannot serve', (t) => {
  const dir = tempDir(t);
  const config = join(dir, 'image.json');
  writeFileSync(config, JSON.stringify({ lowers: [{ file: join(dir, 'nowhere') }] }));
  return assert.rejects(
    run(process.execPath, [join(checkout, 'bin', 'obd'), 'nbd', '--config', config, join(dir, 's')]),
    (error: { code: number; stderr: string }) => {
      assert.equal(error.code, 7);
      assert.match(error.stderr, /Cannot open layer file .*nowhere/);
      return true;
    },
  );
});
