import assert from 'node:assert/strict';
import { createReadStream, readFileSync } from 'node:fs';
import test from 'node:test';
import { unpackLayer } from '../../src/ocilayer/index.js';
import { readTar } from '../../src/tar/index.js';
import { LayerTree, type NodeType, type TreeNode } from '../../src/verify/index.js';
import { tarOf, type Member } from '../convert/make-image.js';
import { expectedTree, type TreeEntry } from '../convert/tree.js';
import { fixture, noFixtures } from '../support/fixtures.js';

const NAMES: Readonly<Record<NodeType, string>> = {
  file: 'reg',
  directory: 'dir',
  symlink: 'symlink',
  char: 'char',
  block: 'block',
  fifo: 'fifo',
};

function paths(tree: LayerTree): Map<string, TreeNode> {
  const all = new Map<string, TreeNode>([['/', tree.root]]);
  const walk = (path: string, node: TreeNode): void => {
    for (const [name, { node: child }] of node.children ?? []) {
      all.set(`${path}/${name}`, child);
      walk(`${path}/${name}`, child);
    }
  };
  walk('', tree.root);
  return all;
}

async function apply(tree: LayerTree, bytes: AsyncIterable<Uint8Array>, name: string): Promise<void> {
  await tree.apply(readTar(unpackLayer(bytes, name), name));
}

async function applyFile(tree: LayerTree, ...path: string[]): Promise<void> {
  const file = fixture('small', ...path);
  await apply(tree, createReadStream(file), file);
}

function xattrs(node: TreeNode): Record<string, string> {
  return Object.fromEntries(
    [...node.xattrs].map(([name, value]) => [
      Buffer.from(name, 'latin1').toString('utf8'),
      Buffer.from(value).toString('base64'),
    ]),
  );
}

/** Fails unless the tree is the expected one in every field. */
function assertTree(tree: LayerTree, expected: ReadonlyMap<string, TreeEntry>): void {
  const actual = paths(tree);
  assert.deepEqual([...actual.keys()].sort(), [...expected.keys()].sort());
  for (const [path, want] of expected) {
    const node = actual.get(path);
    assert.ok(node);
    assert.equal(NAMES[node.type], want.type, path);
    if (node.type === 'file')
      assert.deepEqual([node.size, node.digest], [want.size, `sha256:${want.sha256}`], path);
    if (node.type === 'symlink')
      assert.equal(Buffer.from(node.target, 'latin1').toString('utf8'), want.target, path);
    if (node.type === 'char' || node.type === 'block')
      assert.deepEqual([node.major, node.minor], [want.major, want.minor], path);
    if (!node.described) continue;
    const mode = node.mode.toString(8).padStart(4, '0');
    assert.deepEqual([mode, node.uid, node.gid], [want.mode, want.uid, want.gid], path);
    if (want.mtime !== null && want.mtimeLoose !== true)
      assert.deepEqual([node.mtime.seconds, node.mtime.nanoseconds], [want.mtime.s, want.mtime.ns], path);
    assert.deepEqual(xattrs(node), want.xattrs ?? {}, path);
  }
}

test('LayerTree describes the golden layers as they are expected', { skip: noFixtures }, async () => {
  const tree = new LayerTree();
  for (const layer of [1, 2, 3]) {
    await applyFile(tree, 'layers', `layer${layer}.tar`);
    assertTree(tree, expectedTree(fixture('small', 'expected.json'), layer));
  }
});

interface EdgeCase {
  readonly layer: string;
  readonly why: string;
  readonly expected: string;
}

const edges: readonly EdgeCase[] =
  noFixtures === false
    ? (JSON.parse(readFileSync(fixture('small', 'edge', 'edge.json'), 'utf8')) as { cases: EdgeCase[] }).cases
    : [];
for (const { layer, why, expected } of edges)
  test(`LayerTree, layer rule: ${why}`, async () => {
    const tree = new LayerTree();
    await applyFile(tree, 'edge', 'layer1.tar');
    await applyFile(tree, 'edge', layer);
    assertTree(tree, expectedTree(fixture('small', 'edge', expected), 2));
  });

/** Names after layers, directories with a slash, implied ones in brackets. */
async function namesAfter(...layers: readonly (readonly Member[])[]): Promise<string[]> {
  const tree = new LayerTree();
  for (const members of layers)
    await apply(
      tree,
      (async function* () {
        yield tarOf(members);
      })(),
      'layer',
    );
  return [...paths(tree)]
    .filter(([path]) => path !== '/')
    .map(([path, { type, described }]) => {
      const name = type === 'directory' ? `${path}/` : path;
      return described ? name : `[${name}]`;
    })
    .sort();
}

for (const [what, layers, expected] of [
  [
    'an opaque whiteout hides lower content wherever it stands',
    [
      [{ path: 'd/' }, { path: 'd/old' }],
      [{ path: 'd/new' }, { path: 'd/.wh..wh..opq' }],
    ],
    ['/d/', '/d/new'],
  ],
  [
    'a whiteout leaves what its own layer has there, and forgets what described it',
    [
      [{ path: 'd/' }, { path: 'd/old' }],
      [{ path: 'd/new' }, { path: '.wh.d' }],
    ],
    ['/d/new', '[/d/]'],
  ],
  [
    'an opaque root hides everything',
    [
      [{ path: 'a' }, { path: 'd/' }, { path: 'd/e/' }],
      [{ path: '.wh..wh..opq' }, { path: 'd/e/f' }],
    ],
    ['/d/e/f', '[/d/]', '[/d/e/]'],
  ],
  ['a file takes the place of a directory', [[{ path: 'd/' }, { path: 'd/e' }], [{ path: 'd' }]], ['/d']],
  [
    'symbolic links among parents are followed inside the root',
    [
      [{ path: 'usr/bin/' }, { path: 'bin', type: '2', link: '../../usr/bin' }],
      [{ path: 'bin/x' }, { path: 'bin/.wh.y' }],
    ],
    ['/bin', '/usr/bin/', '/usr/bin/x', '[/usr/]'],
  ],
] as const)
  test(`LayerTree: ${what}`, async () => {
    assert.deepEqual(await namesAfter(...layers), [...expected].sort());
  });

test('LayerTree refuses hard links to nowhere and loops of symbolic links', async () => {
  await assert.rejects(namesAfter([{ path: 'a', type: '1', link: 'b' }]), { code: 'OBD_CONVERT_BAD_TAR' });
  await assert.rejects(
    namesAfter([{ path: 'a', type: '2', link: 'b' }, { path: 'b', type: '2', link: 'a' }, { path: 'a/c' }]),
    { code: 'OBD_CONVERT_BAD_TAR' },
  );
});
