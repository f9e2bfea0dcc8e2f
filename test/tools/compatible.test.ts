import assert from 'node:assert/strict';
import { execFile, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'node:test';
import { promisify } from 'node:util';
import { AppendLayer, openWritableLayer, WritableLayerStack } from '../../src/lsmt/index.js';
import { zstdVersion } from '../../src/native/index.js';
import { FileCredentials, RegistryClient } from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { missing } from '../support/commands.js';
import { differingChunks, readDeviceDump } from '../support/device-dump.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { unpackedFixtures, zstdIsTheReferences } from '../support/golden-images.js';
import { tempDir, unpackFixture } from '../support/unpack.js';
import { runTool } from './run-tool.js';

const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

function ok(name: string, ...args: string[]): string {
  const { status, stdout, stderr } = runTool(name, args);
  assert.equal(status, 0, `${name} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

function fails(name: string, status: number, message: RegExp, ...args: string[]): void {
  const result = runTool(name, args);
  assert.equal(result.status, status, `${name} ${args.join(' ')}: ${result.stderr}`);
  assert.match(result.stderr, message);
}

/** Writes the golden vector V3 (formats.md 11) into the layer that overlaybd-create made. */
async function writeVector3(paths: { data: string; index: string }): Promise<void> {
  const disk = await WritableLayerStack.open([], await openWritableLayer(paths));
  const filled = (length: number, char: string): Uint8Array => Buffer.alloc(length, char);
  await disk.write(0, filled(65536, 'A'));
  await disk.write(8192, filled(4096, 'B'));
  await disk.write(2 ** 20, filled(8 << 20, 'C'));
  await disk.discard(4 << 20, 20 << 20);
  await disk.write(2 ** 30 - 512, filled(512, 'D'));
  await disk.flush();
  await disk.close();
}

test('overlaybd-create, -commit, -zfile and -merge give the golden vectors', async (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  const [data, index] = [at('data'), at('index')];
  assert.equal(ok('overlaybd-create', data, index, '1'), 'overlaybd-create has created files SUCCESSFULLY\n');
  ok('overlaybd-commit', data, index, at('v1'));
  assert.equal(sha256(at('v1')), '17edbeb74ee12e4453b907364dadfd2087a47fe8a9c3a10fc265b5de308b58a6');
  ok('overlaybd-commit', '-z', data, index, at('v2'));
  assert.equal(sha256(at('v2')), '15d17469cc0829fb2fe33eecbc972f849a601691219f961bce84662fe2fb2c01');
  ok('overlaybd-zfile', at('v1'), at('v2-initial'));
  assert.equal(sha256(at('v2-initial')), '303c12159102315c4365f52954c602d4f16ca93c953a5c9bdb597ac69f3c22bc');

  await writeVector3({ data, index });
  const uuid = 'AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE';
  ok('overlaybd-commit', data, index, at('v3'), '--uuid', uuid);
  assert.equal(sha256(at('v3')), '2f66bdac189825c2c0bf62b85dce740f35400c4b80174a453dd3a2f3b70b1821');
  ok('overlaybd-commit', data, index, at('v3.tar'), '-z', '-t', `--uuid=${uuid.toLowerCase()}`);
  assert.equal(statSync(at('v3.tar')).size, 30720);
  ok('overlaybd-commit', data, index, at('v3.zf'), '-z', '--uuid', uuid);
  assert.equal(sha256(at('v3.zf')), '742124c36e87c43a6fce2e203a3197999b12b33a997f6b2529d5907a8145b881');

  ok('overlaybd-create', '-u', uuid, at('data4'), at('index4'), '1');
  const disk = await WritableLayerStack.open(
    [],
    await AppendLayer.open({ data: at('data4'), index: at('index4') }),
  );
  await disk.write(4096, Buffer.alloc(65536, 'X'));
  await disk.write(200 << 20, Buffer.alloc(65536, 'X'));
  await disk.close();
  ok('overlaybd-commit', '-m', 'hello', at('data4'), at('index4'), at('v4'));
  assert.equal(sha256(at('v4')), '7ae14578991767970ccc751032e1b5a0c41ab426a24146db588ba9065d7e42bc');

  writeFileSync(at('image.json'), JSON.stringify({ lowers: [{ file: at('v3.tar') }, { file: at('v4') }] }));
  ok('overlaybd-merge', '--compress=false', at('image.json'), at('merged'));
  assert.equal(sha256(at('merged')), '1ee7023e245fede74523f6e8e84569dcb0ab126a92101bff6fc2197327e26146');
});

test('overlaybd-commit gives the bytes of the reference', { skip: noFixtures }, (t) => {
  const golden = unpackedFixtures();
  const dir = tempDir(t);
  let n = 0;
  const same = (input: readonly string[], flags: readonly string[], expected: string): void => {
    const out = join(dir, String(n++));
    ok('overlaybd-commit', ...input, out, ...flags);
    if (flags.includes('zstd') && !zstdIsTheReferences) {
      t.diagnostic(`${expected}: its bytes are not compared, zstd is ${zstdVersion}`);
      return;
    }
    assert.equal(
      sha256(out),
      sha256(join(golden, 'small', expected)),
      `${input.join(' ')} ${flags.join(' ')}`,
    );
  };
  const sealed = (layer: number): string[] => [
    '--commit_sealed',
    join(golden, 'small/sealed', `layer${layer}.sealed`),
  ];
  for (const layer of [1, 2, 3]) {
    same(sealed(layer), ['-z', '-t'], `native-lz4/layer${layer}.tar`);
    same(sealed(layer), ['-z', '-t', '--algorithm', 'zstd'], `native-zstd/layer${layer}.tar`);
    same(sealed(layer), [], `raw-lsmt/layer${layer}.lsmt`);
  }
  for (const bs of [8, 16, 32])
    same(sealed(1), ['-z', '-t', '--bs', String(bs)], `native-lz4-bs${bs}/layer1.tar`);
  const rw = ['writable_data', 'writable_index'].map((name) => join(golden, 'small/rw-append', name));
  same(rw, ['-z', '-t'], 'native-lz4/layer2.tar');
  same(rw, ['-z'], 'zfile-bare/layer2.zf');
  const ids = JSON.parse(readFileSync(fixture('small/uuid/ids.json'), 'utf8')) as {
    file: string;
    uuid: string;
    parentUuid: string;
    userTag: string;
  }[];
  for (const { file, uuid, parentUuid, userTag } of ids)
    same(
      sealed(Number(/[0-9]/.exec(file)?.[0])),
      ['-z', '-t', '--uuid', uuid, '-p', parentUuid, ...(userTag === '' ? [] : ['-m', userTag])],
      `uuid/${file}`,
    );
});

test('overlaybd-merge and overlaybd-zfile give the bytes of the reference', { skip: noFixtures }, (t) => {
  const golden = join(unpackedFixtures(), 'small');
  const dir = tempDir(t);
  const config = join(dir, 'image.json');
  const lowers = ['base/base16.zf', ...[1, 2, 3].map((n) => `native-lz4/layer${n}.tar`)];
  writeFileSync(config, JSON.stringify({ lowers: lowers.map((file) => ({ file: join(golden, file) })) }));
  ok('overlaybd-merge', config, join(dir, 'merged.zf'));
  assert.equal(sha256(join(dir, 'merged.zf')), sha256(join(golden, 'merged-lz4/merged.zf')));
  ok('overlaybd-merge', '--no-compress', config, join(dir, 'merged.lsmt'));
  assert.equal(sha256(join(dir, 'merged.lsmt')), sha256(join(golden, 'merged-raw/merged.lsmt')));
  ok('overlaybd-zfile', join(golden, 'raw-lsmt/layer3.lsmt'), join(dir, 'layer3.zf'));
  assert.equal(sha256(join(dir, 'layer3.zf')), sha256(join(golden, 'zfile-bare/layer3.zf')));
});

test(
  'overlaybd-commit --seal finalises the data file as the snapshotter needs it',
  { skip: noFixtures },
  (t) => {
    const dir = join(tempDir(t), 'copy');
    const from = unpackFixture(t, 'small', 'rw-append');
    mkdirSync(dir);
    const [data, index] = ['writable_data', 'writable_index'].map((name) => join(dir, name));
    assert.ok(data !== undefined && index !== undefined);
    copyFileSync(join(from, 'writable_data'), data);
    copyFileSync(join(from, 'writable_index'), index);
    ok('overlaybd-commit', '--seal', data, index);
    ok('overlaybd-commit', '--commit_sealed', data, `${data}.temp`, '-z', '-t');
    assert.equal(sha256(`${data}.temp`), sha256(fixture('small/native-lz4/layer2.tar')));
    fails('overlaybd-commit', 255, /sealed in place/, '--seal', data, index);
  },
);

test('overlaybd-commit of a sparse layer of the reference gives the same disk', { skip: noFixtures }, (t) => {
  const dir = tempDir(t);
  const golden = join(unpackedFixtures(), 'small');
  const upper = ['writable_data', 'writable_index'].map((name) => join(golden, 'rw-sparse', name));
  const out = join(dir, 'layer3');
  ok('overlaybd-commit', ...upper, out, '-z', '-t');
  // What the reference's commit came to: README.md of the golden images.
  assert.equal(statSync(out).size, 334_848);
  const lowers = ['base/base16.zf', 'native-lz4/layer1.tar', 'native-lz4/layer2.tar'].map((name) =>
    join(golden, name),
  );
  const config = join(dir, 'image.json');
  writeFileSync(config, JSON.stringify({ lowers: [...lowers, out].map((file) => ({ file })) }));
  ok('obd', 'export', '--quiet', '--config', config, join(dir, 'disk'));
  assert.deepEqual(
    differingChunks(join(dir, 'disk'), readDeviceDump(join(golden, 'native-lz4/device.json'))),
    [],
  );
});

test(
  'overlaybd-create -s makes a sparse layer, and --mkfs a clean ext4',
  { skip: missing({ e2fsck: 'e2fsprogs' }) },
  (t) => {
    const dir = tempDir(t);
    const at = (name: string): string => join(dir, name);
    ok('overlaybd-create', at('data'), at('index'), '64', '-s');
    assert.equal(statSync(at('data')).size, 4096 + 64 * 2 ** 30);
    assert.ok(statSync(at('data')).blocks < 64);
    assert.equal(statSync(at('index')).size, 0);

    ok('overlaybd-create', at('d2'), at('i2'), '1', '--mkfs');
    ok('overlaybd-create', '-s', at('d3'), at('i3'), '1', '--mkfs');
    ok('overlaybd-create', '--raw', '--mkfs', at('raw'), at('unused'), '1');
    assert.equal(existsSync(at('unused')), false);
    const check = spawnSync('e2fsck', ['-fn', at('raw')], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stdout);
    for (const [data, index] of [
      ['d2', 'i2'],
      ['d3', 'i3'],
    ] as const) {
      writeFileSync(
        at('image.json'),
        JSON.stringify({ lowers: [], upper: { data: at(data), index: at(index) } }),
      );
      ok('obd', 'export', '--quiet', '--force', '--config', at('image.json'), at('disk'));
      assert.equal(sha256(at('disk')), sha256(at('raw')));
    }
  },
);

test('the tools never touch what exists unless told to, and leave nothing behind', (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  writeFileSync(at('data'), 'mine');
  fails('overlaybd-create', 255, /EEXIST|exists/, at('data'), at('index'), '1');
  fails('overlaybd-create', 255, /EEXIST|exists/, '-s', at('index'), at('data'), '1');
  assert.deepEqual(readdirSync(dir), ['data']);
  ok('overlaybd-create', at('d'), at('i'), '1');
  fails('overlaybd-commit', 255, /"[^"]*data": the file exists\n[^]*-f/, at('d'), at('i'), at('data'));
  assert.equal(readFileSync(at('data'), 'utf8'), 'mine');
  ok('overlaybd-commit', '-f', at('d'), at('i'), at('data'));
  assert.equal(statSync(at('data')).size, 8192);
  fails('overlaybd-commit', 255, /nowhere/, at('nowhere'), at('i'), at('out'));
  fails('overlaybd-commit', 255, /lacks the output/, at('d'), at('i'));
  fails('overlaybd-create', 255, /not supported yet/, at('x'), at('y'), '-s', '1', '--turboOCI');
  fails(
    'overlaybd-commit',
    255,
    /Cannot upload to "https:\/\/x\/y": expected/,
    '--upload',
    'https://me:secret@x/y?token=1',
    at('d'),
    at('i'),
    at('o'),
  );
  assert.deepEqual(readdirSync(dir).sort(), ['d', 'data', 'i']);
});

test('the tools answer a wrong command line with their usage', () => {
  for (const [name, ...args] of [
    ['overlaybd-create', 'data'],
    ['overlaybd-create', 'a', 'b', '1', '--no-such-flag'],
    ['overlaybd-commit'],
    ['overlaybd-commit', 'a', 'b', 'c', '--bs', '5'],
    ['overlaybd-merge', 'only-one'],
    ['overlaybd-zfile'],
  ] as const)
    fails(name, 2, /Usage: overlaybd-/, ...args);
  fails('overlaybd-create', 255, /vsize is "ten"/, 'a', 'b', 'ten');
});

test('overlaybd-zfile compresses standard input, extracts and verifies', (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  const bytes = Buffer.concat([randomBytes(100_000), Buffer.alloc(1 << 20), randomBytes(77)]);
  assert.equal(runTool('overlaybd-zfile', [at('a.zf')], bytes).status, 0);
  ok('overlaybd-zfile', '-x', at('a.zf'), at('a'));
  assert.ok(readFileSync(at('a')).equals(bytes));
  ok('overlaybd-zfile', at('a'), at('b.zf'), '-t', '--algorithm', 'zstd', '--bs', '64');
  ok('overlaybd-zfile', '-x', at('b.zf'), at('b'));
  assert.ok(readFileSync(at('b')).equals(bytes));
  ok('overlaybd-zfile', '--verify', at('a.zf'));
  ok('overlaybd-zfile', '--verify', at('b.zf'));
  fails('overlaybd-zfile', 255, /the file exists/, '-x', at('b.zf'), at('a'));
  ok('overlaybd-zfile', '-f', '-x', at('b.zf'), at('a'));
  const damaged = readFileSync(at('a.zf'));
  damaged[5000] = (damaged[5000] ?? 0) ^ 1;
  writeFileSync(at('c.zf'), damaged);
  fails('overlaybd-zfile', 255, /crc error in block/, '--verify', at('c.zf'));
  fails('overlaybd-zfile', 255, /crc error in block/, '-x', at('c.zf'), at('c'));
  fails('overlaybd-zfile', 255, /./, '--verify', at('a'));
  assert.equal(existsSync(at('c')), false);
});

test('overlaybd-commit and overlaybd-merge upload what they write', async (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  const users = [{ username: 'me', password: 'geheim' }];
  const server = await startRegistryServer({ directory: at('registry'), users });
  t.after(() => server[Symbol.asyncDispose]());
  const url = `${server.url}/v2/some/layers/blobs/uploads/`;
  writeFileSync(
    at('cred.json'),
    JSON.stringify({ auths: { [server.host]: { username: 'me', password: 'geheim' } } }),
  );
  const run = promisify(execFile);
  const tool = (name: string, ...args: string[]): ReturnType<typeof run> =>
    run(process.execPath, [join(checkout, 'bin', name), ...args]);
  ok('overlaybd-create', at('data'), at('index'), '1', '--mkfs');
  const upload = ['--upload', url, '--cred_file_path', at('cred.json')];
  const committed = await tool('overlaybd-commit', '-z', at('data'), at('index'), at('layer'), ...upload);
  assert.equal(committed.stderr.toString(), `sha256:${sha256(at('layer'))}\n`);
  writeFileSync(at('image.json'), JSON.stringify({ lowers: [{ file: at('layer') }] }));
  const merged = await tool('overlaybd-merge', at('image.json'), at('merged'), ...upload);
  assert.equal(merged.stderr.toString(), `sha256:${sha256(at('merged'))}\n`);
  const client = new RegistryClient({
    credentials: [new FileCredentials(at('cred.json'))],
    plainHttpHosts: [server.host],
  });
  t.after(() => client.close());
  for (const name of ['layer', 'merged']) {
    const blob = await client.openBlob(`${server.url}/v2/some/layers/blobs/sha256:${sha256(at(name))}`);
    const bytes = Buffer.alloc(blob.size);
    await blob.read(0, bytes);
    assert.ok(bytes.equals(readFileSync(at(name))));
    await blob.close();
  }
  const refused = tool('overlaybd-commit', at('data'), at('index'), at('other'), '--upload', url);
  await assert.rejects(refused, /OBD_REGISTRY_AUTH/);
  assert.equal(existsSync(at('other')), false);
  fails('overlaybd-commit', 255, /exclude each other/, '-t', ...upload, at('data'), at('index'), at('x'));
});

test('overlaybd-zfile that is stopped leaves nothing behind', async (t) => {
  const dir = tempDir(t);
  const child = spawn(process.execPath, [join(checkout, 'bin/overlaybd-zfile'), join(dir, 'out')]);
  const closed = once(child, 'close');
  child.stdin.on('error', () => undefined); // It is stopped with input still on its way.
  child.stdin.write(Buffer.alloc(2 << 20));
  for (let i = 0; i < 200 && readdirSync(dir).length === 0; i++) await sleep(50);
  assert.equal(readdirSync(dir).length, 1, 'the file is being written, under another name');
  child.kill('SIGTERM');
  assert.deepEqual(await closed, [143, null]);
  assert.deepEqual(readdirSync(dir), []);
});

test('obd compact leaves a layer of the same content in smaller files', async (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  ok('overlaybd-create', at('data'), at('index'), '1');
  const layer = await AppendLayer.open({ data: at('data'), index: at('index') });
  const disk = await WritableLayerStack.open([], layer);
  for (let i = 0; i < 30; i++) await disk.write((i % 3) * 65536, Buffer.alloc(65536, i + 1));
  fails('obd', 7, /in use/, 'compact', '--index', at('index'), at('data'));
  await disk.close();
  ok('overlaybd-commit', at('data'), at('index'), at('before'));
  writeFileSync(
    at('image.json'),
    JSON.stringify({ lowers: [], upper: { data: at('data'), index: at('index') } }),
  );
  const report = JSON.parse(ok('obd', 'compact', '--json', '--config', at('image.json'))) as object;
  assert.deepEqual(report, {
    sizeBefore: 4096 + 30 * 65536,
    sizeAfter: 4096 + 3 * 65536,
    live: 3 * 65536,
    copied: 3 * 65536,
    freed: 0,
    recordsBefore: 30,
    recordsAfter: 3,
  });
  assert.match(ok('obd', 'compact', '--index', at('index'), at('data')), /196 KiB, now 196 KiB; 3 records/);
  ok('overlaybd-commit', at('data'), at('index'), at('after'));
  assert.equal(sha256(at('before')), sha256(at('after')));
  ok('overlaybd-create', '-s', at('sparse'), at('none'), '1');
  fails('obd', 2, /sparse layer/, 'compact', '--index', at('none'), at('sparse'));
  fails('obd', 2, /Name the data file/, 'compact', at('data'));
});

test('obd create, commit, merge and zfile do the same with longer names', (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  ok('obd', 'create', '--size', '1', at('data'), at('index'));
  ok('obd', 'commit', '--no-tar', '--no-compress', '--index', at('index'), at('data'), at('v1'));
  assert.equal(sha256(at('v1')), '17edbeb74ee12e4453b907364dadfd2087a47fe8a9c3a10fc265b5de308b58a6');
  ok('obd', 'commit', '--seal', '--index', at('index'), at('data'));
  assert.match(ok('obd', 'commit', at('data'), at('layer.tar')), /0 segments/);
  writeFileSync(
    at('image.json'),
    JSON.stringify({ lowers: [{ file: at('layer.tar') }, { file: at('v1') }] }),
  );
  ok('obd', 'merge', '--config', at('image.json'), at('merged'));
  ok('obd', 'verify', at('merged'));
  ok('obd', 'zfile', at('v1'), at('v1.zf'));
  assert.match(ok('obd', 'zfile', '--verify', at('v1.zf')), /2 blocks/);
  for (const name of ['create', 'commit', 'merge', 'zfile'])
    assert.match(ok('obd', name, '--help'), /Example/);
});
