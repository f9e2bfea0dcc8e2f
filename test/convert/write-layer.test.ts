import assert from 'node:assert/strict';
import { createReadStream, readdirSync, readSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { MemoryBlob, type ReadableBlob } from '../../src/blob/index.js';
import { writeLayer, type LayerFile } from '../../src/convert/index.js';
import { LayerStack, openSealedLayer, type SealedLayer } from '../../src/lsmt/index.js';
import { Ext4Image, FileType } from '../../src/native/index.js';
import { applyLayer, unpackLayer } from '../../src/ocilayer/index.js';
import { readTar, tarPayload } from '../../src/tar/index.js';
import { ZFileReader } from '../../src/zfile/index.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';
import { digest } from './make-image.js';

const MIB = 2 ** 20;

async function bytesOf(blob: ReadableBlob): Promise<Buffer> {
  const bytes = Buffer.alloc(blob.size);
  await blob.read(0, bytes);
  return bytes;
}

/** Fails unless a stack of layers has, byte for byte, the disk of an image whose file holds everything. */
async function assertSameDisk(layers: readonly SealedLayer[], plain: Ext4Image, what: string): Promise<void> {
  const stack = new LayerStack(layers.slice());
  assert.equal(stack.size, plain.size);
  const [ours, theirs] = [Buffer.alloc(MIB), Buffer.alloc(MIB)];
  for (let at = 0; at < stack.size; at += MIB) {
    await stack.read(at, ours);
    assert.equal(readSync(plain.fd, theirs, 0, MIB, at), MIB);
    assert.ok(ours.equals(theirs), `${what}, MiB ${at / MIB}`);
  }
}

/** The same changes to two images, one packed while they are made, one with everything in its file. */
class Twins {
  readonly layers: SealedLayer[] = [];

  readonly work: string;
  readonly packed: Ext4Image;
  readonly plain: Ext4Image;

  private constructor(work: string, packed: Ext4Image, plain: Ext4Image) {
    this.work = work;
    this.packed = packed;
    this.plain = plain;
  }

  static async make(t: TestContext, size: number): Promise<Twins> {
    const work = tempDir(t);
    const twins = new Twins(work, await Ext4Image.format(work, size), await Ext4Image.format(work, size));
    t.after(() => {
      twins.packed.close();
      twins.plain.close();
    });
    return twins;
  }

  async layer(change: (image: Ext4Image) => Promise<unknown>): Promise<LayerFile> {
    if (this.layers.length > 0) {
      this.packed.nextLayer();
      this.plain.nextLayer();
    }
    await change(this.plain);
    await this.plain.flush();
    const options = { workDir: this.work, uuid: null, parentUuid: null };
    const { file: made } = await writeLayer(this.packed, options, () => change(this.packed));
    const file = await made;
    const bytes = await bytesOf(file.blob);
    await file.blob.close();
    assert.equal(file.digest, digest(bytes));
    this.layers.push(await openSealedLayer(await ZFileReader.open(await tarPayload(new MemoryBlob(bytes)))));
    await assertSameDisk(this.layers, this.plain, `layer ${this.layers.length}`);
    return file;
  }
}

test('Layers packed while they are applied read back as the image', { skip: noFixtures }, async (t) => {
  const twins = await Twins.make(t, 512 * MIB);
  for (const i of [1, 2, 3]) {
    const path = fixture('small', 'layers', `layer${i}.tar`);
    const { dataSize } = await twins.layer((image) =>
      applyLayer(image, readTar(unpackLayer(createReadStream(path), path), path)),
    );
    assert.ok(dataSize > 0);
  }
});

const TIME = { seconds: 1_700_000_000, nanoseconds: 0 };
const FILE = {
  ...{ mode: FileType.FILE | 0o644, uid: 0, gid: 0, major: 0, minor: 0 },
  ...{ atime: TIME, mtime: TIME, ctime: TIME },
};

async function putFile(image: Ext4Image, name: string, content: Uint8Array): Promise<void> {
  image.beginFile(image.make(Ext4Image.ROOT, name, FILE));
  await image.writeFile(0, content, 0);
  image.endFile(content.byteLength);
}

test('A small image whose blocks are used again and again, as data, zeros and metadata, packs right', async (t) => {
  const twins = await Twins.make(t, 4 * MIB);
  let seed = 1;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (seed >> 8) % below;
  };
  const steps = Array.from({ length: 6 }, () =>
    Array.from({ length: 40 }, () => {
      const content = new Uint8Array(random(3) === 0 ? random(20_000) : random(300_000)).fill(random(256));
      if (random(4) === 0) content.fill(0, random(content.length + 1));
      return {
        name: `f${random(6)}`,
        content,
        target: 'x'.repeat(100 + random(3000)),
        link: random(4) === 0,
      };
    }),
  );
  for (const step of steps)
    await twins.layer(async (image) => {
      for (const { name, content, target, link } of step) {
        if (image.lookup(Ext4Image.ROOT, name) !== undefined) image.remove(Ext4Image.ROOT, name);
        // The target of a long link is a block of metadata where a file's content may have been.
        if (link) image.symlink(Ext4Image.ROOT, name, target, { ...FILE, mode: 0o777 });
        else await putFile(image, name, content);
      }
    });
});

test('A layer whose change fails gives back its threads and files, and says why', async (t) => {
  const work = tempDir(t);
  const image = await Ext4Image.format(work, 8 * MIB);
  const options = { workDir: work, uuid: null, parentUuid: null };
  const full = new Uint8Array(MIB).fill(7);
  await assert.rejects(
    writeLayer(image, options, async () => {
      for (let i = 0; i < 9; i++) await putFile(image, `f${i}`, full);
    }),
    { code: 'OBD_CONVERT_NO_SPACE' },
  );
  image.close();
  assert.deepEqual(readdirSync(work), []);
});
