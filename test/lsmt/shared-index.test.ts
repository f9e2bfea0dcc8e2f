import assert from 'node:assert/strict';
import test from 'node:test';
import { MemoryBlob } from '../../src/blob/index.js';
import {
  LayerStack,
  mergeLayers,
  SegmentIndex,
  SEGMENT_WORDS,
  setSegment,
  type Layer,
} from '../../src/lsmt/index.js';

/** A layer of `sectors` at each of the offsets. */
function layer(offsets: readonly number[], sectors: number): Layer {
  const words = new Uint32Array(offsets.length * SEGMENT_WORDS);
  offsets.forEach((offset, i) => {
    setSegment(words, i, offset, sectors, 8 + i * sectors, false, 0);
  });
  const blob = new MemoryBlob(new Uint8Array(1 << 20));
  return {
    name: 'layer',
    info: { virtualSize: 1 << 30, uuid: null, parentUuid: null, userTag: new Uint8Array() },
    index: SegmentIndex.build({ words, count: offsets.length }),
    files: [{ blob, padsLastSector: false }],
    close: () => blob.close(),
  };
}

test('stacks of equal layers have one index in memory, and their own files', async () => {
  const make = (): readonly Layer[] => [layer([0, 100, 200], 50), layer([20, 150], 10), layer([120], 100)];
  const [first, second] = [new LayerStack(make()), new LayerStack(make())];
  assert.equal(first.index, second.index);
  assert.equal(first.layers[0]?.index.data().buffer, second.layers[0]?.index.data().buffer);
  assert.deepEqual(
    second.files.map(({ blob }) => blob),
    second.layers.toReversed().map(({ files }) => files[0]?.blob),
  );
  await first.close();
  await second.close();
});

test('a stack that differs in a layer, or in their order, has the index of its own layers', () => {
  const [a, b, c] = [layer([0, 100], 50), layer([20], 10), layer([21], 10)] as const;
  for (const layers of [[a, b], [b, a], [a, c], [a, c, b], [c, a, b], [b], [a, b]]) {
    const { words, count } = mergeLayers(layers).segments;
    assert.deepEqual(
      new LayerStack(layers).index.segments(),
      SegmentIndex.build({ words, count }).segments(),
    );
  }
  assert.notEqual(new LayerStack([a, b]).index, new LayerStack([b, a]).index);
});
