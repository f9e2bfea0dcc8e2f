import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { FileBlob } from '../../src/blob/index.js';
import { LayerStack, openSealedLayer, type SealedLayer } from '../../src/lsmt/index.js';
import type { Manifest } from '../../src/oci/index.js';
import { tarPayload } from '../../src/tar/index.js';
import { ZFileReader } from '../../src/zfile/index.js';

const MIB = 2 ** 20;

/** Opens a converted layer. */
export async function openLayer(path: string): Promise<SealedLayer> {
  return openSealedLayer(await ZFileReader.open(await tarPayload(await FileBlob.open(path))));
}

/** File of a blob in an OCI layout. */
export function blobPath(layout: string, digest: string): string {
  return join(layout, 'blobs', 'sha256', digest.slice('sha256:'.length));
}

/** Writes the disk of a converted image, or of its lowest layers, to a sparse file. */
export async function exportDisk(
  layout: string,
  manifest: Manifest,
  to: string,
  layers = manifest.layers.length,
): Promise<void> {
  const opened: SealedLayer[] = [];
  for (const { digest } of manifest.layers.slice(0, layers))
    opened.push(await openLayer(blobPath(layout, digest)));
  const stack = new LayerStack(opened);
  const fd = openSync(to, 'w');
  try {
    ftruncateSync(fd, stack.size);
    for (const extent of stack.extents(0, stack.size)) {
      if (!extent.data) continue;
      for (let at = 0; at < extent.length; at += MIB) {
        const data = new Uint8Array(Math.min(MIB, extent.length - at));
        await stack.read(extent.offset + at, data);
        writeSync(fd, data, 0, data.length, extent.offset + at);
      }
    }
  } finally {
    closeSync(fd);
    await stack.close();
  }
}
