import assert from 'node:assert/strict';
import { createReadStream, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import test from 'node:test';
import { applyLayer, unpackLayer, type LayerCounts } from '../../src/ocilayer/index.js';
import { Ext4Image } from '../../src/native/index.js';
import { readTar } from '../../src/tar/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { assertClean, assertTree, expectedTree, imageTree } from '../convert/tree.js';

const MIB = 2 ** 20;

async function withImage<T>(run: (image: Ext4Image) => Promise<T>, size = 512 * MIB): Promise<T> {
  const image = await Ext4Image.format(tmpdir(), size);
  try {
    image.nextLayer();
    return await run(image);
  } finally {
    image.close();
  }
}

/** `highWaterMark`: odd sizes make every structure span chunks. */
function apply(image: Ext4Image, path: string, highWaterMark = 64 * 1024): Promise<LayerCounts> {
  return applyLayer(image, readTar(unpackLayer(createReadStream(path, { highWaterMark }), path), path));
}

for (const [label, names, chunk] of [
  ['plain', ['layer1.tar', 'layer2.tar', 'layer3.tar'], 65_536],
  ['packed, in chunks of 1009 bytes', ['layer1.tar.gz', 'layer2.tar.zst', 'layer3.tar.gz'], 1009],
] as const)
  test(`The small layers give the expected tree after each layer (${label})`, { skip: noFixtures }, () =>
    withImage(async (image) => {
      for (const [i, name] of names.entries()) {
        await apply(image, fixture('small', 'layers', name), chunk);
        await image.flush();
        assertClean(image);
        await assertTree(image, expectedTree(fixture('small', 'expected.json'), i + 1), name);
        image.nextLayer();
      }
    }),
  );

test('The layers as the reference was given them give the same trees', { skip: noFixtures }, () =>
  withImage(async (image) => {
    for (const i of [1, 2, 3]) {
      await apply(image, fixture('small', 'ref-input', `layer${i}.tar.gz`));
      await assertTree(image, expectedTree(fixture('small', 'expected.json'), i), `layer ${i}`);
      image.nextLayer();
    }
    await image.flush();
    assertClean(image);
  }),
);

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
  test(`Layer rule: ${why}`, () =>
    withImage(async (image) => {
      await apply(image, fixture('small', 'edge', 'layer1.tar'));
      image.nextLayer();
      await apply(image, fixture('small', 'edge', layer));
      await assertTree(image, expectedTree(fixture('small', 'edge', expected), 2), layer);
      await image.flush();
      assertClean(image);
    }, 64 * MIB));

for (const [name, message] of [
  ['conv-truncated.tar', /unexpected end of archive/],
  ['conv-checksum.tar', /header checksum/],
  ['conv-truncated.tar.gz', /gzip stream: unexpected end/],
  ['conv-gzcrc.tar.gz', /gzip stream: incorrect data check/],
  ['conv-missing-link.tar', /does not exist in any layer/],
  ['conv-loop-parent.tar', /too many symbolic links/],
] as const)
  test(`A damaged layer is refused: ${name}`, { skip: noFixtures }, () =>
    withImage(
      (image) =>
        assert.rejects(apply(image, fixture('small', 'bad', name)), { code: 'OBD_CONVERT_BAD_TAR', message }),
      64 * MIB,
    ),
  );

for (const [name, paths] of [
  ['conv-no-end.tar', ['/dir/a', '/dir/b', '/dir/c']],
  ['conv-dotdot.tar', ['/escape']],
  ['conv-dotdot-inner.tar', ['/up']],
  ['conv-symlink-escape.tar', ['/tmp/file']],
] as const)
  test(`An odd layer is taken and stays inside the root: ${name}`, { skip: noFixtures }, () =>
    withImage(async (image) => {
      await apply(image, fixture('small', 'bad', name));
      const tree = await imageTree(image);
      for (const path of paths) assert.ok(tree.has(path), [...tree.keys()].join(' '));
      await image.flush();
      assertClean(image);
    }, 64 * MIB),
  );
