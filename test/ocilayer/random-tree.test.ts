import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import test from 'node:test';
import fc from 'fast-check';
import { applyLayer } from '../../src/ocilayer/index.js';
import { Ext4Image } from '../../src/native/index.js';
import { readTar } from '../../src/tar/index.js';
import { digest, tarOf, type Member } from '../convert/make-image.js';
import { assertClean, imageTree } from '../convert/tree.js';

/** A file system as simple as can be: what a layer ought to do, told by paths alone. Without links. */
type Model = Map<string, string>;

const isBelow = (path: string, directory: string): boolean => path.startsWith(`${directory}/`);

function removeTree(model: Model, path: string): void {
  for (const key of [...model.keys()]) if (key === path || isBelow(key, path)) model.delete(key);
}

/** Applies a layer to the model: first all whiteouts to what is below, then all entries. */
function applyToModel(lower: Model, members: readonly Member[]): Model {
  const model = new Map(lower);
  for (const { path } of members) {
    const parts = path.replace(/\/$/, '').split('/');
    const name = parts.pop() ?? '';
    const directory = parts.join('/');
    if (name === '.wh..wh..opq') {
      if (directory !== '' && model.get(directory) !== 'dir') continue;
      for (const key of [...model.keys()]) if (directory === '' || isBelow(key, directory)) model.delete(key);
    } else if (name.startsWith('.wh.')) removeTree(model, [...parts, name.slice(4)].join('/'));
  }
  for (const { path, content } of members) {
    const clean = path.replace(/\/$/, '');
    if (clean.includes('.wh.')) continue;
    const parts = clean.split('/');
    for (let i = 1; i < parts.length; i++) {
      const parent = parts.slice(0, i).join('/');
      if (model.get(parent) !== 'dir') removeTree(model, parent);
      model.set(parent, 'dir');
    }
    if (path.endsWith('/')) {
      if (model.get(clean) !== 'dir') removeTree(model, clean);
      model.set(clean, 'dir');
    } else {
      removeTree(model, clean);
      model.set(clean, digest(Buffer.from(content ?? '')));
    }
  }
  return model;
}

// Few names, so that layers meet; directories and files have different ones, or an archive could contradict itself.
const directory = fc
  .array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 3 })
  .map((parts) => parts.join('/'));
const inDirectory = (name: fc.Arbitrary<string>): fc.Arbitrary<string> =>
  fc
    .tuple(fc.option(directory, { nil: undefined }), name)
    .map(([at, last]) => (at === undefined ? last : `${at}/${last}`));
const file = fc.record({
  path: inDirectory(fc.constantFrom('x', 'y', 'a-name-of-some-length', 'z'.repeat(90))),
  content: fc.integer({ min: 0, max: 20_000 }).map((n) => 'data'.repeat(n).slice(0, n)),
});
const member: fc.Arbitrary<Member> = fc.oneof(
  { weight: 5, arbitrary: file },
  { weight: 3, arbitrary: directory.map((path) => ({ path: `${path}/` })) },
  {
    weight: 2,
    arbitrary: inDirectory(fc.constantFrom('.wh.a', '.wh.b', '.wh.x', '.wh.y', '.wh..wh..opq')).map(
      (path) => ({ path }),
    ),
  },
);
const layers = fc.array(fc.array(member, { maxLength: 25 }), { minLength: 1, maxLength: 4 });

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

async function build(tars: readonly Buffer[]): Promise<{ models: Model[]; bytes: string }> {
  const image = await Ext4Image.format(tmpdir(), 64 * 2 ** 20);
  try {
    const models: Model[] = [];
    let bytes = '';
    for (const [i, tar] of tars.entries()) {
      if (i > 0) image.nextLayer();
      await applyLayer(image, readTar(once(tar), 'random'));
      await image.flush();
      bytes += JSON.stringify(await image.changes());
      const model: Model = new Map();
      for (const [path, entry] of await imageTree(image))
        if (path !== '/')
          model.set(path.slice(1), entry.type === 'dir' ? 'dir' : `sha256:${entry.sha256 ?? ''}`);
      models.push(model);
    }
    assertClean(image);
    return { models, bytes };
  } finally {
    image.close();
  }
}

test('Random layers give the tree that the rules say, cleanly and the same each time', async () => {
  await fc.assert(
    fc.asyncProperty(layers, async (stack) => {
      const tars = stack.map(tarOf);
      const first = await build(tars);
      let model: Model = new Map();
      for (const [i, members] of stack.entries()) {
        model = applyToModel(model, members);
        assert.deepEqual(
          new Map([...(first.models[i] ?? [])].sort()),
          new Map([...model].sort()),
          `layer ${i}`,
        );
      }
      assert.equal((await build(tars)).bytes, first.bytes);
    }),
    { numRuns: 60 },
  );
});
