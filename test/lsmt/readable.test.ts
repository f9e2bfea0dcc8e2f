import { MemoryBlob, roundUp, SECTOR } from '../../src/blob/index.js';
import {
  commitLayer,
  LayerStack,
  openSealedLayer,
  ScratchLayer,
  WritableLayerStack,
} from '../../src/lsmt/index.js';
import { testReadableBlob } from '../conformance/readable-blob.js';

/** A scratch disk of whole sectors that begins with `content`. */
async function scratchWith(content: Uint8Array): Promise<WritableLayerStack> {
  const padded = new Uint8Array(roundUp(content.byteLength, SECTOR));
  padded.set(content);
  const virtualSize = padded.byteLength;
  const disk = await WritableLayerStack.open([], await ScratchLayer.create({ virtualSize }), {
    virtualSize: content.byteLength,
  });
  // Two stores out of order, so that the mapping is not one run from the start.
  const half = roundUp(virtualSize / 2, SECTOR);
  if (half < virtualSize) await disk.upper.store(half, padded.subarray(half));
  await disk.upper.store(0, padded.subarray(0, half));
  return disk;
}

testReadableBlob({
  name: 'LayerStack',
  supports: { rejectsAfterClose: true },
  async factory(content) {
    const disk = await scratchWith(content);
    const parts: Uint8Array[] = [];
    await commitLayer(disk.upper, { write: async (bytes) => void parts.push(bytes.slice()) });
    await disk.close();
    const layer = await openSealedLayer(new MemoryBlob(new Uint8Array(Buffer.concat(parts)), 'layer'));
    return new LayerStack([layer], { virtualSize: content.byteLength });
  },
});

testReadableBlob({
  name: 'WritableLayerStack',
  supports: { rejectsAfterClose: true },
  factory: (content) => scratchWith(content),
});
