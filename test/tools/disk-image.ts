import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { Worker } from 'node:worker_threads';
import { extentsOf } from '../../src/blob/index.js';
import { Ext4Image, ext4SourcePair } from '../../src/native/index.js';
import { dataRuns, RawDisk } from '../../src/tools/index.js';

/** The ext4 in a raw disk image, opened for looking: changes go nowhere. */
export async function openDiskFileSystem(t: TestContext, path: string, workDir: string): Promise<Ext4Image> {
  const pair = ext4SourcePair();
  const thread = new Worker(new URL('./serve-disk.js', import.meta.url), {
    workerData: { fd: pair.server, path },
  });
  await once(thread, 'message');
  const disk = await RawDisk.open(path, 'read');
  const runs = dataRuns(extentsOf(disk, 0, disk.size));
  await disk.close();
  const image = await Ext4Image.open(workDir, disk.size, pair.image, runs);
  t.after(async () => {
    image.close();
    thread.postMessage('close');
    await once(thread, 'exit');
  });
  return image;
}
