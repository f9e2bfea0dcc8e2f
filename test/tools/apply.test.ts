import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { assertTree, expectedTree } from '../convert/tree.js';
import { missing, untilItOpens } from '../support/commands.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { unpackedFixtures } from '../support/golden-images.js';
import { tempDir } from '../support/unpack.js';
import { openDiskFileSystem } from './disk-image.js';
import { runTool } from './run-tool.js';

const noFsck = missing({ e2fsck: 'e2fsprogs' });
const noQemu = missing({ 'qemu-img': 'qemu-utils' });
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

function ok(name: string, ...args: string[]): string {
  const { status, stdout, stderr } = runTool(name, args);
  assert.equal(status, 0, `${name} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

interface Upper {
  readonly config: string;
  readonly data: string;
  readonly index: string;
}

/** A configuration with these lowers and a new upper. */
function newUpper(dir: string, name: string, lowers: readonly string[], ...create: string[]): Upper {
  const [config, data, index] = ['json', 'data', 'index'].map((end) => join(dir, `${name}.${end}`));
  assert.ok(config !== undefined && data !== undefined && index !== undefined);
  ok('overlaybd-create', data, index, ...(create.length > 0 ? create : ['0']));
  writeFileSync(config, JSON.stringify({ lowers: lowers.map((file) => ({ file })), upper: { data, index } }));
  return { config, data, index };
}

/** Exports the device of a configuration, checks its file system, and compares the tree. */
async function assertDevice(
  t: TestContext,
  dir: string,
  config: string,
  expected: string,
  afterLayer: number,
): Promise<void> {
  const disk = join(dir, `disk-${afterLayer}`);
  ok('obd', 'export', '--quiet', '--force', '--config', config, disk);
  const fsck = spawnSync('e2fsck', ['-fn', disk], { encoding: 'utf8' });
  assert.equal(fsck.status, 0, fsck.stdout);
  const image = await openDiskFileSystem(t, disk, dir);
  await assertTree(image, expectedTree(expected, afterLayer), `after layer ${afterLayer}`);
}

test(
  'overlaybd-apply puts layer upon layer on a file system of the reference, as obdconv would',
  { skip: noFixtures || noFsck },
  async (t) => {
    const dir = tempDir(t);
    const lowers = [fixture('small/base/base16.zf')];
    const inputs = ['layer1.tar', 'layer2.tar.zst', 'layer3.tar.gz'];
    for (const [i, input] of inputs.entries()) {
      const upper = newUpper(dir, `upper${i}`, lowers, '0', ...(i === 1 ? ['-s'] : []));
      const out = ok('overlaybd-apply', fixture('small/layers', input), upper.config);
      assert.equal(out, 'overlaybd-apply done\n');
      if (i === 2) await assertDevice(t, dir, upper.config, fixture('small/expected.json'), 3);
      const layer = join(dir, `layer${i}`);
      ok('overlaybd-commit', '-z', '-t', upper.data, upper.index, layer);
      lowers.push(layer);
    }
    // The whole of it, from sealed layers alone.
    const config = join(dir, 'all.json');
    writeFileSync(config, JSON.stringify({ lowers: lowers.map((file) => ({ file })) }));
    await assertDevice(t, dir, config, fixture('small/expected.json'), 3);
  },
);

test(
  'overlaybd-apply puts a layer on what the reference converted, on 64 GiB',
  { skip: noFixtures || noFsck },
  async (t) => {
    const dir = tempDir(t);
    const golden = join(unpackedFixtures(), 'debian');
    const below = readFileSync(join(golden, 'image-1.json'), 'utf8').replaceAll('@DIR@', golden);
    const lowers = (JSON.parse(below) as { lowers: { file: string }[] }).lowers.map(({ file }) => file);
    const json = (path: string): unknown => JSON.parse(readFileSync(join(golden, 'oci-src', path), 'utf8'));
    const blob = (digest: string): string => join('blobs', digest.replace(':', '/'));
    const { manifests } = json('index.json') as { manifests: { digest: string }[] };
    const { layers } = json(blob(manifests[0]?.digest ?? '')) as { layers: { digest: string }[] };
    const input = join(golden, 'oci-src', blob(layers[1]?.digest ?? ''));
    const upper = newUpper(dir, 'upper', lowers);
    const plain = `sha256:${sha256(gunzipSync(readFileSync(input)))}`;
    ok('overlaybd-apply', '--checksum', plain, input, upper.config);
    assert.ok(statSync(upper.data).size < 8 << 20, `${statSync(upper.data).size} bytes in the upper`);
    await assertDevice(t, dir, upper.config, join(golden, 'expected.json'), 2);
  },
);

test(
  'overlaybd-apply makes the file system itself, and takes a raw disk and a FIFO',
  { skip: noFixtures || noFsck },
  async (t) => {
    const dir = tempDir(t);
    const layer = fixture('small/layers/layer1.tar');
    const made = newUpper(dir, 'made', [], '4', '--mkfs');
    ok('overlaybd-apply', layer, made.config);
    await assertDevice(t, dir, made.config, fixture('small/expected.json'), 1);

    const late = newUpper(dir, 'late', [fixture('small/base/base16.zf')], '4');
    ok('overlaybd-apply', '--mkfs', layer, late.config);
    ok('overlaybd-create', '--raw', '--mkfs', join(dir, 'raw'), join(dir, 'none'), '4');
    const fifo = join(dir, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const child = spawn(process.execPath, [
      join(checkout, 'bin/overlaybd-apply'),
      '--raw',
      fifo,
      join(dir, 'raw'),
    ]);
    writeFileSync(fifo, readFileSync(layer));
    assert.deepEqual(await once(child, 'close'), [0, null]);
    const same = spawnSync('cmp', [join(dir, 'disk-1'), join(dir, 'raw')], { encoding: 'utf8' });
    assert.equal(same.status, 0, same.stdout);
    await assertDevice(t, dir, late.config, fixture('small/expected.json'), 1);
  },
);

test(
  'overlaybd-apply refuses what it cannot do right, and leaves the upper as it was',
  { skip: noFixtures },
  (t) => {
    const dir = tempDir(t);
    const upper = newUpper(dir, 'upper', [fixture('small/base/base16.zf')]);
    // The first use over the lowers writes down the virtual size.
    ok('obd', 'apply', '--config', upper.config, fixture('small/edge/opaque-nested.tar'));
    const before = [upper.data, upper.index].map((path) => sha256(readFileSync(path)));
    const fails = (message: RegExp, ...args: string[]): void => {
      const { status, stderr } = runTool('overlaybd-apply', args);
      assert.equal(status, 255, stderr);
      assert.match(stderr, message);
      assert.deepEqual(
        [upper.data, upper.index].map((path) => sha256(readFileSync(path))),
        before,
      );
    };
    const layer = fixture('small/layers/layer1.tar');
    fails(/expected sha256:0{64}/, '--checksum', `sha256:${'0'.repeat(64)}`, layer, upper.config);
    for (const bad of [
      'conv-checksum.tar',
      'conv-truncated.tar',
      'conv-gzcrc.tar.gz',
      'conv-missing-link.tar',
    ])
      fails(/tar|gzip|hard link/i, fixture('small/bad', bad), upper.config);
    fails(/nowhere/, join(dir, 'nowhere'), upper.config);
    const lowersOnly = join(dir, 'lowers.json');
    writeFileSync(lowersOnly, JSON.stringify({ lowers: [{ file: fixture('small/base/base16.zf') }] }));
    fails(/has no upper/, layer, lowersOnly);
    fails(/not supported yet/, '--no-extract-rootfs', layer, upper.config);

    const empty = newUpper(dir, 'empty', [], '1');
    fails(/holds no ext4/, layer, empty.config);
    const damaged = join(dir, 'damaged.json');
    writeFileSync(
      damaged,
      JSON.stringify({
        lowers: [{ file: fixture('small/bad/zf-block-crc.zf') }],
        upper: { data: empty.data, index: empty.index },
      }),
    );
    fails(/crc error in block|holds no ext4/, layer, damaged);
    assert.ok(!readdirSync(dir).some((name) => name.startsWith('.')));
  },
);

test('overlaybd-apply stops when it is told to, wherever it waits', async (t) => {
  const dir = tempDir(t);
  const upper = newUpper(dir, 'upper', [], '1', '--mkfs');
  const before = sha256(readFileSync(upper.data));
  const fifo = join(dir, 'fifo');
  execFileSync('mkfifo', [fifo]);
  const files = readdirSync(dir).sort();
  for (const withWriter of [false, true]) {
    const child = spawn(process.execPath, [join(checkout, 'bin/overlaybd-apply'), fifo, upper.config]);
    let stderr = '';
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
    const closed = once(child, 'close');
    await untilItOpens(child, fifo);
    const writer = withWriter ? await open(fifo, 'w') : undefined;
    await writer?.write(Buffer.alloc(100));
    child.kill('SIGTERM');
    assert.deepEqual(await closed, [143, null], stderr);
    await writer?.close();
    assert.match(stderr, /Cancelled/);
    assert.equal(sha256(readFileSync(upper.data)), before);
    assert.deepEqual(readdirSync(dir).sort(), files);
  }
});

test(
  'overlaybd-apply refuses a file system with features that it would not keep up',
  { skip: missing({ 'mkfs.ext4': 'e2fsprogs' }) || noFixtures },
  (t) => {
    const dir = tempDir(t);
    const disk = join(dir, 'disk');
    for (const [options, message] of [
      [['-O', 'metadata_csum'], /metadata_csum/],
      [['-O', '^metadata_csum,^metadata_csum_seed,^orphan_file', '-b', '1024'], /blocks of 1024/],
    ] as const) {
      const fd = openSync(disk, 'w');
      ftruncateSync(fd, 64 << 20);
      closeSync(fd);
      const made = spawnSync('mkfs.ext4', ['-q', '-F', ...options, disk], { encoding: 'utf8' });
      if (made.status !== 0) continue; // An older mkfs does not know all names.
      const { status, stderr } = runTool('overlaybd-apply', [
        '--raw',
        fixture('small/layers/layer1.tar'),
        disk,
      ]);
      assert.equal(status, 255, stderr);
      assert.match(stderr, message);
    }
  },
);

test('overlaybd-apply --from_qcow2 copies the disk', { skip: noQemu }, (t) => {
  const dir = tempDir(t);
  const raw = join(dir, 'raw');
  const fd = openSync(raw, 'w');
  ftruncateSync(fd, 64 << 20);
  closeSync(fd);
  execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 5 1M 3M', '-c', 'write -P 6 63M 1M', raw]);
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, join(dir, 'disk.qcow2')]);
  const upper = newUpper(dir, 'upper', [], '1');
  ok('overlaybd-apply', '--from_qcow2', join(dir, 'disk.qcow2'), upper.config);
  ok('obd', 'export', '--quiet', '--config', upper.config, join(dir, 'out'));
  assert.ok(
    readFileSync(join(dir, 'out'))
      .subarray(0, 64 << 20)
      .equals(readFileSync(raw)),
  );
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(dir, 'large.qcow2'), '2G']);
  const { status, stderr } = runTool('overlaybd-apply', [
    '--from_qcow2',
    join(dir, 'large.qcow2'),
    upper.config,
  ]);
  assert.equal(status, 255);
  assert.match(stderr, /it has 2147483648 bytes, the disk 1073741824/);
});
