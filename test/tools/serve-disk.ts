/** A thread that answers an ext4 image's questions from a raw disk image; see tools-image.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { BlockSource, RawDisk } from '../../src/tools/index.js';

const { fd, path } = workerData as { fd: number; path: string };
const disk = await RawDisk.open(path, 'read');
const source = new BlockSource(fd, disk);
parentPort?.postMessage('ready');
parentPort?.once('message', () => {
  void source.close().then(() => disk.close());
  parentPort?.close();
});
