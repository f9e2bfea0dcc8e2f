import assert from 'node:assert/strict';
import { createReadStream, writeSync, readSync, openSync, closeSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { FileBlob } from '../../src/blob/index.js';
import { applyLayer, unpackLayer } from '../../src/ocilayer/index.js';
import { Ext4Image, FileType } from '../../src/native/index.js';
import { readTar } from '../../src/tar/index.js';
import {
  compareTrees,
  DiskTree,
  LayerTree,
  type Comparison,
  type DifferenceKind,
} from '../../src/verify/index.js';
import { tarOf, type Member } from '../convert/make-image.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

const MIB = 2 ** 20;
const TIME = { seconds: 1_700_000_000, nanoseconds: 0 };
const BASE = { uid: 0, gid: 0, major: 0, minor: 0, atime: TIME, mtime: TIME, ctime: TIME };

const MEMBERS: readonly Member[] = [
  { path: 'etc/' },
  { path: 'etc/hosts', content: 'localhost', pax: { 'SCHILY.xattr.user.note': 'hello' } },
  { path: 'etc/link', type: '2', link: 'hosts' },
  { path: 'etc/hard', type: '1', link: 'etc/hosts' },
  { path: 'dev/null', type: '3', major: 1, minor: 3, mode: 0o666 },
  { path: 'big', content: Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251)) },
  { path: 'large-and-empty', content: new Uint8Array(100_000) },
];

function once(bytes: Uint8Array) {
  return (async function* () {
    yield bytes;
  })();
}

/** An image with these layers, and what they describe. */
async function made(
  t: TestContext,
  layers: readonly (() => AsyncIterable<Uint8Array>)[],
  size = 64 * MIB,
): Promise<{ image: Ext4Image; tree: LayerTree }> {
  const image = await Ext4Image.format(tempDir(t), size);
  t.after(() => {
    image.close();
  });
  const tree = new LayerTree();
  for (const [i, open] of layers.entries()) {
    if (i > 0) image.nextLayer();
    await applyLayer(image, readTar(unpackLayer(open(), `layer ${i}`), `layer ${i}`));
    await tree.apply(readTar(unpackLayer(open(), `layer ${i}`), `layer ${i}`));
  }
  await image.flush();
  return { image, tree };
}

async function compare(
  t: TestContext,
  image: Ext4Image,
  tree: LayerTree,
  ignore: readonly DifferenceKind[] = [],
): Promise<Comparison> {
  await image.flush();
  const disk = await FileBlob.open(`/proc/self/fd/${image.fd}`);
  const found = await DiskTree.open(disk, { workDir: tempDir(t) });
  try {
    return await compareTrees(tree, found, { limit: 100, ignore: new Set(ignore) });
  } finally {
    await found.close();
    await disk.close();
  }
}

function told({ differences }: Comparison): string[] {
  return differences.map(({ path, kind, layer }) => `${path} ${kind} ${layer ?? 'none'}`);
}

test('compareTrees() finds nothing in what was converted right', { skip: noFixtures }, async (t) => {
  const layers = [1, 2, 3].map(
    (i) => () => createReadStream(fixture('small', 'layers', `layer${i}.tar`)) as AsyncIterable<Uint8Array>,
  );
  const { image, tree } = await made(t, layers, 512 * MIB);
  const result = await compare(t, image, tree);
  assert.deepEqual(result.differences, []);
  assert.ok(result.names > 600);
  assert.ok(result.bytes > 0);
});

test('compareTrees() finds a single byte that was changed on the disk, and says whose it is', async (t) => {
  const { image, tree } = await made(t, [() => once(tarOf(MEMBERS)), () => once(tarOf([{ path: 'x' }]))]);
  const inode = image.lookup(Ext4Image.ROOT, 'big')?.inode ?? 0;
  const [, place = 0] = image.extents(inode);
  const fd = openSync(`/proc/self/fd/${image.fd}`, 'r+');
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, place + 5000);
  byte[0] = (byte[0] ?? 0) ^ 1;
  writeSync(fd, byte, 0, 1, place + 5000);
  closeSync(fd);
  const result = await compare(t, image, tree);
  assert.deepEqual(told(result), ['/big content 0']);
  assert.match(result.differences[0]?.expected ?? '', /^sha256:[0-9a-f]{64}$/);
  assert.notEqual(result.differences[0]?.expected, result.differences[0]?.found);
});

const ROOT = Ext4Image.ROOT;
const inodeOf = (image: Ext4Image, ...path: string[]): number =>
  path.reduce((at, name) => image.lookup(at, name)?.inode ?? 0, ROOT);

for (const [what, change, expected] of [
  [
    'a missing name',
    (i: Ext4Image) => {
      i.remove(ROOT, 'big');
    },
    ['/big missing 0'],
  ],
  [
    'a name too many',
    (i: Ext4Image) => void i.make(inodeOf(i, 'etc'), 'extra', { ...BASE, mode: FileType.FIFO | 0o600 }),
    ['/etc/extra unexpected none'],
  ],
  [
    'another type',
    (i: Ext4Image) => {
      i.remove(ROOT, 'big');
      i.make(ROOT, 'big', { ...BASE, mode: FileType.DIRECTORY | 0o644 });
    },
    ['/big type 0'],
  ],
  [
    'other attributes',
    (i: Ext4Image) => {
      i.setAttributes(inodeOf(i, 'etc'), {
        ...BASE,
        mode: 0o4700,
        uid: 1,
        gid: 2,
        mtime: { seconds: 5, nanoseconds: 1 },
      });
    },
    ['/etc mode 0', '/etc uid 0', '/etc gid 0', '/etc mtime 0'],
  ],
  [
    'other extended attributes',
    (i: Ext4Image) => {
      i.setXattrs(
        inodeOf(i, 'etc', 'hosts'),
        new Map([
          ['user.note', Buffer.from('hello\0')],
          ['user.more', Buffer.from('x')],
        ]),
      );
    },
    ['/etc/hosts xattr 0', '/etc/hosts xattr 0'],
  ],
  [
    'another device',
    (i: Ext4Image) => {
      i.remove(inodeOf(i, 'dev'), 'null');
      i.make(inodeOf(i, 'dev'), 'null', { ...BASE, mode: FileType.CHAR | 0o666, major: 1, minor: 5 });
    },
    ['/dev/null device 0'],
  ],
  [
    'another target',
    (i: Ext4Image) => {
      i.remove(inodeOf(i, 'etc'), 'link');
      i.symlink(inodeOf(i, 'etc'), 'link', 'host', { ...BASE, mode: 0o777 });
    },
    ['/etc/link target 0'],
  ],
  [
    'another size',
    (i: Ext4Image) => {
      i.remove(ROOT, 'large-and-empty');
      i.beginFile(i.make(ROOT, 'large-and-empty', { ...BASE, mode: FileType.FILE | 0o644 }));
      i.endFile(99_999);
    },
    ['/large-and-empty size 0'],
  ],
  [
    'names that should lead to one file',
    async (i: Ext4Image) => {
      i.remove(inodeOf(i, 'etc'), 'hard');
      const inode = i.make(inodeOf(i, 'etc'), 'hard', { ...BASE, mode: FileType.FILE | 0o644 });
      i.setXattrs(inode, new Map([['user.note', Buffer.from('hello')]]));
      i.beginFile(inode);
      await i.writeFile(0, Buffer.from('localhost'), 0);
      i.endFile(9);
    },
    ['/etc/hard link 0'],
  ],
  [
    'names that should not lead to one file',
    (i: Ext4Image) => {
      i.remove(ROOT, 'big');
      i.link(ROOT, 'big', inodeOf(i, 'large-and-empty'));
    },
    ['/large-and-empty link 0', '/big size 0'],
  ],
] as const)
  test(`compareTrees() tells of ${what}`, async (t) => {
    const { image, tree } = await made(t, [() => once(tarOf(MEMBERS))]);
    assert.deepEqual((await compare(t, image, tree)).differences, []);
    await change(image);
    const result = await compare(t, image, tree);
    assert.deepEqual(told(result).sort(), [...expected].sort());
    assert.equal(result.count, expected.length);
    const kinds = result.differences.map(({ kind }) => kind);
    assert.equal((await compare(t, image, tree, kinds)).count, 0, 'what is ignored is not told');
  });

test('DiskTree.open() says when a disk holds no ext4, and what reading fails with is told', async (t) => {
  const image = await Ext4Image.format(tempDir(t), 8 * MIB);
  t.after(() => {
    image.close();
  });
  const empty = { name: 'zeroes', size: 8 * MIB, read: async () => undefined, close: async () => undefined };
  await assert.rejects(DiskTree.open(empty, { workDir: tempDir(t) }), { code: 'OBD_CONVERT_FILESYSTEM' });
  const broken = { ...empty, read: () => Promise.reject(new Error('the disk is gone')) };
  await assert.rejects(DiskTree.open(broken, { workDir: tempDir(t) }), (error: Error) => {
    assert.match(`${error.message} ${String(error.cause)}`, /the disk is gone/);
    return true;
  });
});
