/**
 * An image of many small layers: `node dist/bench/support/layered-image.js DIR SEEN` makes `layers-33.json` and its 33
 * layers of 300 random pieces each in DIR, with the paths that DIR will have as SEEN.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { commitLayer, ScratchLayer } from '../../src/lsmt/index.js';
import { Codec } from '../../src/native/index.js';
import { ZFileWriter } from '../../src/zfile/index.js';
import { randoms } from '../../src/bench/index.js';

const LAYERS = 33;
const PIECES = 300;
const SIZE = 64 << 20;

const [dir = '.', seen = dir] = process.argv.slice(2);
const random = randoms(33);
const lowers: { file: string }[] = [];
mkdirSync(join(dir, 'layers-33'));
for (let number = 0; number < LAYERS; number++) {
  const scratch = await ScratchLayer.create({ virtualSize: SIZE, dir });
  for (let i = 0; i < PIECES; i++) {
    const length = (1 + random(16)) * 512;
    await scratch.store(random((SIZE - length) / 512) * 512, Buffer.alloc(length, number + 1));
  }
  const name = join('layers-33', String(number).padStart(2, '0'));
  const handle = await open(join(dir, name), 'w');
  const zfile = new ZFileWriter(
    {
      write: async (bytes) => {
        await handle.writeFile(bytes);
      },
    },
    { codec: Codec.LZ4, blockSize: 4096 },
  );
  await commitLayer(scratch, { write: (bytes) => zfile.write(bytes) });
  await zfile.finish();
  await handle.close();
  await scratch.close();
  lowers.push({ file: join(seen, name) });
}
writeFileSync(join(dir, 'layers-33.json'), JSON.stringify({ lowers, resultFile: '' }));
