import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { openImageSource, type Manifest } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';
import { exportDisk } from '../convert/disk.js';
import { memberBytes, tarOf, writeLayout } from '../convert/make-image.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { compareTree, readExpectedTree } from '../support/mounted-tree.js';
import { tempDir } from '../support/unpack.js';

const root = process.getuid?.() === 0 ? false : 'mounting needs root';
const client = new RegistryClient({});

function obdconv(...args: string[]): string {
  return execFileSync(
    process.execPath,
    [join(checkout, 'bin', 'obdconv'), '--quiet', '--no-cache', ...args],
    {
      encoding: 'utf8',
    },
  );
}

async function manifestOf(name: string): Promise<Manifest> {
  const document = await openImageSource(name, client).resolve();
  assert.equal(document.kind, 'manifest');
  return document.manifest;
}

/** Mounts a file for as long as `run` takes. */
function mounted(t: TestContext, file: string, options: string, run: (dir: string) => void): void {
  const dir = join(tempDir(t), 'mnt');
  mkdirSync(dir);
  execFileSync('mount', ['-o', `loop,${options}`, '-t', 'ext4', file, dir]);
  try {
    run(dir);
  } finally {
    execFileSync('umount', [dir]);
  }
}

function assertFsck(path: string): void {
  const fsck = spawnSync('e2fsck', ['-fn', path], { encoding: 'utf8' });
  assert.equal(fsck.status, 0, fsck.stdout + fsck.stderr);
}

/** Converts, and compares what the kernel sees after each layer with the expected tree. */
async function checkImage(t: TestContext, source: string, expected: string, layers: number): Promise<string> {
  const dir = tempDir(t);
  obdconv(source, `oci:${dir}/out:x`, '--workdir', dir);
  const manifest = await manifestOf(`oci:${dir}/out:x`);
  assert.equal(manifest.layers.length, layers);
  const disk = join(dir, 'disk');
  for (let layer = 1; layer <= layers; layer++) {
    await exportDisk(join(dir, 'out'), manifest, disk, layer);
    assertFsck(disk);
    mounted(t, disk, 'ro,noload', (mnt) => {
      assert.deepEqual(compareTree(mnt, readExpectedTree(expected, layer)), [], `layer ${layer}`);
    });
  }
  return disk;
}

test(
  'The kernel sees the expected tree after each of the small layers',
  { skip: root || noFixtures },
  async (t) => {
    const tars = [1, 2, 3].map((i) => readFileSync(fixture('small', 'layers', `layer${i}.tar`)));
    const source = writeLayout(join(tempDir(t), 'src'), tars);
    const disk = await checkImage(t, source, fixture('small', 'expected.json'), 3);
    // And it may go on writing.
    mounted(t, disk, 'rw', (mnt) => {
      execFileSync(
        'sh',
        [
          '-c',
          'cp -a . ../copy && mkdir new && for i in $(seq 3000); do : > htree/n$i; done && rm -r etc usr links && cp -a ../copy/data new',
          'sh',
        ],
        { cwd: mnt },
      );
    });
    assertFsck(disk);
  },
);

test(
  'The kernel sees the expected tree after each layer of the Debian image',
  { skip: root || noFixtures },
  async (t) => {
    await checkImage(
      t,
      `oci:${fixture('debian', 'oci-src')}:debian-slim`,
      fixture('debian', 'expected.json'),
      2,
    );
  },
);

/** Converts in a process of its own; returns the most memory it had, in KiB. */
function memoryOf(dir: string, source: string): number {
  const output = execFileSync(
    process.execPath,
    [
      '--max-old-space-size=128',
      '--input-type=module',
      '-e',
      `const { main } = await import(${JSON.stringify(join(checkout, 'dist/src/cli/convert.js'))});
       await main(process.argv.slice(1));
       console.log(/VmHWM:\\s*(\\d+)/.exec((await import('node:fs')).readFileSync('/proc/self/status', 'utf8'))[1]);`,
      '--',
      ...['--quiet', '--no-cache', '--platform', 'linux/amd64', '--workdir', dir],
      source,
      `oci:${dir}/out:x`,
    ],
    { encoding: 'utf8' },
  );
  return Number(output.trim().split('\n').at(-1));
}

test('Conversion of a layer of 600 MB stays within 300 MB of memory', (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'src'));
  const kilobytes = memoryOf(dir, writeLayout(join(dir, 'src'), [hugeLayer()]));
  assert.ok(kilobytes > 0 && kilobytes < 300 * 1024, `${kilobytes} KiB`);
});

test('A layer of 100,000 files, one with a sparse file of 10 GB, empty ones, forty of them: within 300 MB', async (t) => {
  const dir = tempDir(t);
  const files: Buffer[] = [];
  for (let i = 0; i < 100_000; i++)
    files.push(memberBytes({ path: `d${i % 300}/file${i}`, content: 'x'.repeat(i % 700) }));
  const tail = Buffer.from('the end of a long hole');
  const real = 10 * 2 ** 30;
  const map = Buffer.alloc(512);
  map.write(`1\n${real - tail.length}\n${tail.length}\n`);
  const sparse = memberBytes({
    path: 'GNUSparseFile.0/hole',
    content: Buffer.concat([map, tail]),
    pax: {
      'GNU.sparse.major': '1',
      'GNU.sparse.minor': '0',
      'GNU.sparse.name': 'hole',
      'GNU.sparse.realsize': String(real),
    },
  });
  const end = Buffer.alloc(1024);
  const tars = [Buffer.concat([...files, end]), Buffer.concat([sparse, end]), tarOf([]), Buffer.alloc(0)];
  while (tars.length < 40) tars.push(tarOf([{ path: `layer${tars.length}`, content: 'y' }]));
  mkdirSync(join(dir, 'src'));
  const kilobytes = memoryOf(dir, writeLayout(join(dir, 'src'), tars));
  assert.ok(kilobytes > 0 && kilobytes < 300 * 1024, `${kilobytes} KiB`);
  const manifest = await manifestOf(`oci:${dir}/out:x`);
  assert.equal(manifest.layers.length, 40);
  // Layers of nothing hold nothing, and a hole takes no room.
  assert.ok(manifest.layers.slice(1, 4).every(({ size }) => size < 200_000));
  const disk = join(dir, 'disk');
  await exportDisk(join(dir, 'out'), manifest, disk);
  assertFsck(disk);
  const debugfs = (request: string): string =>
    execFileSync('debugfs', ['-R', request, disk], { encoding: 'utf8' });
  assert.match(debugfs('stat hole'), new RegExp(`Size: ${real}`));
  assert.match(debugfs('stat layer39'), /Size: 1\n/);
  assert.equal(debugfs('cat d99/file99999'), 'x'.repeat(99_999 % 700));
});

test('The kernel sees POSIX ACLs as they were given', { skip: root }, async (t) => {
  const dir = tempDir(t);
  // Version 2, then tag, permissions and id of: owner, user 1000, group, mask, others.
  const acl = '0200000001000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000500ffffffff';
  const pax = { 'SCHILY.xattr.system.posix_acl_access': Buffer.from(acl, 'hex') };
  const source = writeLayout(join(dir, 'src'), [tarOf([{ path: 'd/', mode: 0o775, pax }])]);
  obdconv('--vsize', '1', source, `oci:${dir}/out:x`, '--workdir', dir);
  await exportDisk(join(dir, 'out'), await manifestOf(`oci:${dir}/out:x`), join(dir, 'disk'));
  mounted(t, join(dir, 'disk'), 'ro,noload', (mnt) => {
    const script = 'import os,sys; print(os.getxattr(sys.argv[1], "system.posix_acl_access").hex())';
    assert.equal(execFileSync('python3', ['-c', script, join(mnt, 'd')], { encoding: 'utf8' }).trim(), acl);
  });
});

test('A full work directory is told from a full image', { skip: root }, (t) => {
  const dir = tempDir(t);
  const work = join(dir, 'work');
  mkdirSync(work);
  const source = writeLayout(join(dir, 'src'), [
    memberBytes({ path: 'f', content: randomBytes(30 * 2 ** 20) }),
  ]);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=20m', 'none', work]);
  try {
    const run = spawnSync(
      join(checkout, 'bin', 'obdconv'),
      ['--no-cache', '--platform', 'linux/amd64', '--workdir', work, source, `oci:${dir}/out:x`],
      { encoding: 'utf8' },
    );
    assert.equal(run.status, 7, run.stderr);
    assert.match(run.stderr, /No space left on device/);
    assert.match(run.stderr, /--workdir/);
    assert.match(run.stderr, /OBD_IO_NO_SPACE/);
  } finally {
    execFileSync('umount', [work]);
  }
});

/** Half noise, half zeros (which pack a thousand to one), in few large files and many small ones. */
function hugeLayer(): Buffer {
  const noise = randomBytes(2 ** 20);
  const zeros = Buffer.alloc(150 * 2 ** 20);
  const members = [
    memberBytes({ path: 'zeros1', content: zeros }),
    memberBytes({ path: 'zeros2', content: zeros }),
  ];
  for (let i = 0; i < 20; i++)
    members.push(memberBytes({ path: `noise${i}`, content: Buffer.concat(Array<Buffer>(15).fill(noise)) }));
  for (let i = 0; i < 2000; i++)
    members.push(memberBytes({ path: `small/${i}`, content: noise.subarray(0, 5000) }));
  return Buffer.concat([...members, Buffer.alloc(1024)]);
}
