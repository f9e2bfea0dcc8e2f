import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import test from 'node:test';
import { applyLayer } from '../../src/ocilayer/index.js';
import { Ext4Image } from '../../src/native/index.js';
import { readTar } from '../../src/tar/index.js';
import { tarOf, type Member } from '../convert/make-image.js';
import { assertClean, imageTree, type TreeEntry } from '../convert/tree.js';

type Tree = Map<string, TreeEntry & { inode: number }>;

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** The tree after some layers, which are also checked to leave a clean file system. */
async function build(
  layers: readonly (readonly Member[])[],
  warn?: (message: string) => void,
): Promise<Tree> {
  const image = await Ext4Image.format(tmpdir(), 128 * 2 ** 20);
  try {
    for (const [i, members] of layers.entries()) {
      if (i > 0) image.nextLayer();
      await applyLayer(image, readTar(once(tarOf(members)), `layer${i}`), warn && { warn });
    }
    await image.flush();
    assertClean(image);
    return await imageTree(image);
  } finally {
    image.close();
  }
}

const paths = (tree: Tree): string[] => [...tree.keys()].filter((path) => path !== '/').sort();

function refused(layers: readonly (readonly Member[])[], message: RegExp): Promise<void> {
  return assert.rejects(build(layers), { code: 'OBD_CONVERT_BAD_TAR', message });
}

const described: Member = { path: 'd/', mode: 0o1700, uid: 7, mtime: 5, pax: { 'SCHILY.xattr.user.a': 'b' } };

test('An opaque directory that this layer only passes through loses the attributes of the hidden one, in any order', async () => {
  const opaque = { path: 'd/sub/.wh..wh..opq' };
  for (const [hide, where] of [
    [{ path: '.wh.d' }, '/d'],
    [{ path: '.wh..wh..opq' }, '/d'],
  ] as const)
    for (const layer of [
      [hide, { path: 'd/new' }],
      [{ path: 'd/new' }, hide],
    ]) {
      const entry = (await build([[described, { path: 'd/old' }], layer])).get(where);
      assert.ok(entry);
      assert.deepEqual([entry.mode, entry.uid, entry.mtime?.s, entry.xattrs], ['0755', 0, 0, undefined]);
    }
  // Of the directory itself an opaque marker says nothing.
  const kept = (await build([[described, { path: 'd/sub/old' }], [opaque]])).get('/d');
  assert.deepEqual([kept?.mode, kept?.uid, kept?.xattrs], ['1700', 7, { 'user.a': 'Yg==' }]);
});

test('A directory over a directory has its extended attributes replaced, by none if it has none', async () => {
  const tree = await build([[described, { path: 'd/f' }], [{ path: 'd/' }]]);
  assert.deepEqual([tree.get('/d')?.mode, tree.get('/d')?.xattrs], ['0755', undefined]);
  assert.ok(tree.has('/d/f'));
});

test('A hard link keeps the extended attributes of its file if its header has none', async () => {
  const file: Member = { path: 'f', content: 'x', pax: { 'SCHILY.xattr.user.a': 'b' } };
  const tree = await build([[file, { path: 'g', type: '1', link: './f', mode: 0o600 }]]);
  assert.deepEqual([tree.get('/f')?.mode, tree.get('/f')?.nlink], ['0600', 2]);
  assert.deepEqual(tree.get('/g')?.xattrs, { 'user.a': 'Yg==' });
});

test('A hard link to itself, or through links, is what it says', async () => {
  const tree = await build([
    [
      { path: 'real/f', content: 'x' },
      { path: 'way', type: '2', link: 'real' },
      { path: 'real/f', type: '1', link: 'way/f' },
      { path: 'sym', type: '2', link: 'nowhere' },
      { path: 'symlink-hard', type: '1', link: 'sym' },
    ],
  ]);
  assert.deepEqual([tree.get('/real/f')?.nlink, tree.get('/real/f')?.size], [1, 1]);
  assert.equal(tree.get('/symlink-hard')?.target, 'nowhere');
  assert.equal(tree.get('/symlink-hard')?.mode, '0777');
  await refused([[{ path: 'd/f' }, { path: 'd', type: '1', link: 'd/f' }]], /does not exist in any layer/);
  await refused([[{ path: 'd/' }, { path: 'l', type: '1', link: 'd' }]], /leads to "d", a directory/);
});

test('Directories on the way may be links, dangling ones too, and never lead out', async () => {
  const tree = await build([
    [
      { path: 'a', type: '2', link: '/x/../y/./z' },
      { path: 'a/f' },
      { path: 'up', type: '2', link: '../../../../up-there' },
      { path: 'up/f' },
    ],
  ]);
  assert.deepEqual(paths(tree), ['/a', '/up', '/up-there', '/up-there/f', '/x', '/y', '/y/z', '/y/z/f']);
  const chain: Member[] = Array.from({ length: 41 }, (_, i) => ({
    path: `l${i}`,
    type: '2',
    link: `l${i + 1}`,
  }));
  await refused([[...chain, { path: 'l0/f' }]], /too many symbolic links/);
  assert.ok((await build([[...chain.slice(1), { path: 'l1/f' }]])).has('/l41/f'));
});

test('A file of a lower layer gives way to a directory, one of the same layer does not', async () => {
  assert.deepEqual(paths(await build([[{ path: 'a' }], [{ path: 'a/b' }]])), ['/a', '/a/b']);
  await refused([[{ path: 'a' }, { path: 'a/b' }]], /lies below something that is no directory/);
});

test('Whiteouts spare what their own layer brings, and only that', async () => {
  const lower: Member[] = ['d/old', 'd/sub/old', 'd/sub/deep/old', 'f'].map((path) => ({ path }));
  for (const layer of [
    [{ path: 'd/sub/deep/new' }, { path: 'f', content: 'new' }, { path: '.wh.d' }, { path: '.wh.f' }],
    [{ path: '.wh.d' }, { path: '.wh.f' }, { path: 'd/sub/deep/new' }, { path: 'f', content: 'new' }],
  ]) {
    const tree = await build([lower, layer]);
    assert.deepEqual(paths(tree), ['/d', '/d/sub', '/d/sub/deep', '/d/sub/deep/new', '/f']);
    assert.equal(tree.get('/f')?.size, 3);
  }
});

test("Whiteouts that name nothing are refused, AUFS's own marks ignored", async () => {
  for (const path of ['.wh.', 'd/.wh..', '.wh...']) await refused([[{ path }]], /names nothing/);
  const tree = await build([
    [{ path: '.wh..wh.plnk/1.2' }, { path: 'd/.wh..wh.aufs' }, { path: '.wh..wh.orph/' }],
  ]);
  assert.deepEqual(paths(tree), []);
});

test('/lost+found stays, whatever a layer says', async () => {
  const image = await Ext4Image.format(tmpdir(), 64 * 2 ** 20);
  try {
    for (const members of [
      [{ path: 'lost+found/f' }],
      [{ path: '.wh..wh..opq' }],
      [{ path: 'lost+found/f' }],
      [{ path: '.wh.lost+found' }],
    ]) {
      await applyLayer(image, readTar(once(tarOf(members)), 'layer'));
      image.nextLayer();
    }
    const found = image.lookup(Ext4Image.ROOT, 'lost+found');
    assert.ok(found);
    assert.deepEqual(image.readdir(found.inode), []);
    await image.flush();
    assertClean(image);
  } finally {
    image.close();
  }
});

test('Attributes without a place in ext4 are left out, told once per namespace', async () => {
  const warnings: string[] = [];
  const pax = {
    'SCHILY.xattr.com.apple.quarantine': 'x',
    'SCHILY.xattr.com.apple.other': 'x',
    'SCHILY.xattr.system.nfs4_acl': 'x',
    'SCHILY.xattr.user.kept': 'x',
  };
  const tree = await build(
    [
      [
        { path: 'a', pax },
        { path: 'b', pax },
      ],
    ],
    (message) => warnings.push(message),
  );
  assert.deepEqual(tree.get('/b')?.xattrs, { 'user.kept': 'eA==' });
  assert.equal(warnings.length, 2);
  assert.match(warnings[0] ?? '', /"com.apple.quarantine" of "a" is left out: ext4 has no namespace "com"/);
});

test('POSIX ACLs come through', async () => {
  // Version 2, then tag, permissions and id of: owner, user 1000, group, mask, others.
  const acl = Buffer.from(
    '02000000' +
      '01000700ffffffff' +
      '02000600e8030000' +
      '04000500ffffffff' +
      '10000700ffffffff' +
      '20000500ffffffff',
    'hex',
  );
  const tree = await build([[{ path: 'd/', pax: { 'SCHILY.xattr.system.posix_acl_default': acl } }]]);
  // libext2fs reads ids that mean nothing as 0; test/system/convert.test.ts asks the kernel.
  const read = Buffer.from(tree.get('/d')?.xattrs?.['system.posix_acl_default'] ?? '', 'base64');
  assert.equal(read.toString('hex'), acl.toString('hex').replaceAll('ffffffff', '00000000'));
  await refused(
    [[{ path: 'd/', pax: { 'SCHILY.xattr.system.posix_acl_access': 'nonsense' } }]],
    /"d\/" cannot be stored/,
  );
});

test('What ext4 cannot hold is refused by its name', async () => {
  await refused(
    [[{ path: 'x', pax: { path: 'n'.repeat(256) } }]],
    /"n{200}\.\.\." cannot be stored: A name of 256 bytes/,
  );
  await refused(
    [[{ path: 's', type: '2', pax: { linkpath: 't'.repeat(4096) } }]],
    /"s" cannot be stored: .* 4096 bytes/,
  );
  await refused([[{ path: 's', type: '2', link: '' }]], /cannot be stored/);
  await refused([[{ path: 'c', type: '3', major: 4096 }]], /Device 4096:0/);
  await refused([[{ path: 'f', pax: { 'SCHILY.xattr.user.big': 'x'.repeat(5000) } }]], /do not fit/);
  await refused([[{ path: '/', type: '0' }]], /the root is a file/);
  const links: Member[] = Array.from({ length: 65_000 }, (_, i) => ({ path: `l${i}`, type: '1', link: 'f' }));
  await refused([[{ path: 'f' }, ...links]], /more than 65000 names/);
});

test('Control characters of names do not reach messages', async () => {
  await refused([[{ path: 'h\u001b[31m\n', type: '1', link: 'no' }]], /"h\\x1b\[31m\\x0a" leads to/);
});

test('Names are bytes', async () => {
  const names = ['\xff\xfe', 'line\nbreak', ' ', 'a\\b', '\xc3\xa9', '...'];
  assert.deepEqual(
    paths(await build([names.map((path) => ({ path }))])),
    names.map((name) => `/${name}`).sort(),
  );
});

test('Paths of two thousand directories are made, hidden and removed', async () => {
  const deep = 'd/'.repeat(2000);
  const image = await Ext4Image.format(tmpdir(), 256 * 2 ** 20);
  try {
    const apply = (members: Member[]) => applyLayer(image, readTar(once(tarOf(members)), 'deep'));
    await apply([{ path: 'x', pax: { path: `${deep}f` } }]);
    image.nextLayer();
    await apply([{ path: '.wh..wh..opq' }, { path: 'x', pax: { path: `${deep}g` } }]);
    image.nextLayer();
    await apply([{ path: 'x', pax: { path: `${deep}h` } }, { path: '.wh..wh..opq' }]);
    await image.flush();
    assertClean(image);
    image.nextLayer();
    await apply([{ path: '.wh.d' }]);
    assert.equal(image.lookup(Ext4Image.ROOT, 'd'), undefined);
    await image.flush();
    assertClean(image);
  } finally {
    image.close();
  }
});

test('applyLayer() counts what it did', async () => {
  const image = await Ext4Image.format(tmpdir(), 64 * 2 ** 20);
  try {
    const members = [{ path: 'd/' }, { path: 'd/f', content: 'four' }, { path: '.wh.x' }];
    assert.deepEqual(await applyLayer(image, readTar(once(tarOf(members)), 'layer')), {
      entries: 3,
      whiteouts: 1,
      bytes: 4,
      droppedXattrs: 0,
    });
  } finally {
    image.close();
  }
});
