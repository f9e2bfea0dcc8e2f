import assert from 'node:assert/strict';
import { createReadStream, readFileSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { FileBlob, MemoryBlob, type ReadableBlob } from '../../src/blob/index.js';
import { applyLayer, packLayer, unpackLayer, writeLayer } from '../../src/convert/index.js';
import { layerSource, LayerStack, openSealedLayer, type SealedLayer } from '../../src/lsmt/index.js';
import { Ext4Image } from '../../src/native/index.js';
import { readTar, tarPayload } from '../../src/tar/index.js';
import { ZFileReader } from '../../src/zfile/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { tempDir, unpackFixture } from '../support/unpack.js';
import { digest } from './make-image.js';

const MIB = 2 ** 20;

async function bytesOf(blob: ReadableBlob): Promise<Buffer> {
  const bytes = Buffer.alloc(blob.size);
  await blob.read(0, bytes);
  return bytes;
}

for (const layer of ['layer1', 'layer2', 'layer3'])
  test(`packLayer() gives the bytes of the reference for ${layer}`, { skip: noFixtures }, async (t) => {
    const work = tempDir(t);
    const sealed = join(unpackFixture(t, 'small', 'sealed'), `${layer}.sealed`);
    const source = await openSealedLayer(await FileBlob.open(sealed));
    const { blob, ...layerFile } = await packLayer(
      { ...layerSource(source), diskTags: source.files.map(() => 0) },
      { workDir: work, uuid: null, parentUuid: null },
    );
    const golden = readFileSync(fixture('small', 'native-lz4', `${layer}.tar`));
    assert.equal(layerFile.size, golden.length);
    assert.ok((await bytesOf(blob)).equals(golden));
    assert.equal(layerFile.digest, digest(golden));
    assert.deepEqual(readdirSync(work), [], 'the work file has no name');
    await blob.close();
    await source.close();
  });

test('Stacked layers read back as the image they were made from', { skip: noFixtures }, async (t) => {
  const work = tempDir(t);
  const image = await Ext4Image.format(work, 512 * MIB);
  t.after(() => {
    image.close();
  });
  const layers: SealedLayer[] = [];
  for (const i of [1, 2, 3]) {
    const path = fixture('small', 'layers', `layer${i}.tar`);
    if (i > 1) image.nextLayer();
    await applyLayer(image, readTar(unpackLayer(createReadStream(path), path), path));
    const { blob, dataSize } = await writeLayer(image, { workDir: work, uuid: null, parentUuid: null });
    assert.ok(dataSize > 0);
    // Kept in memory: the next layer changes the image under a reader of the file.
    const copy = new MemoryBlob(await bytesOf(blob));
    await blob.close();
    layers.push(await openSealedLayer(await ZFileReader.open(await tarPayload(copy))));

    const stack = new LayerStack(layers.slice());
    assert.equal(stack.size, image.size);
    const [ours, theirs] = [Buffer.alloc(MIB), Buffer.alloc(MIB)];
    for (let at = 0; at < stack.size; at += MIB) {
      await stack.read(at, ours);
      assert.equal(readSync(image.fd, theirs, 0, MIB, at), MIB);
      assert.ok(ours.equals(theirs), `layer ${i}, MiB ${at / MIB}`);
    }
  }
});
