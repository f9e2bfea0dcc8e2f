/** Images that are the first layers of another one, and perhaps one more. */
import { createHash } from 'node:crypto';
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

interface Descriptor {
  mediaType?: string;
  digest: string;
  size: number;
}

/**
 * Writes an OCI layout with the first `count` layers of the one image of another layout; blobs of layers are links.
 * @param more an uncompressed tar that becomes one more layer.
 */
export async function imagePrefix(
  layout: string,
  count: number,
  target: string,
  more?: Uint8Array,
): Promise<void> {
  const blob = (digest: string): string => join(layout, 'blobs', ...digest.split(':'));
  const read = async <T>(path: string): Promise<T> => JSON.parse(await readFile(path, 'utf8')) as T;
  const index = await read<{ manifests: [Descriptor] }>(join(layout, 'index.json'));
  const manifest = await read<{ config: Descriptor; layers: Descriptor[] }>(blob(index.manifests[0].digest));
  const config = await read<{ rootfs: { diff_ids: string[] }; history?: unknown }>(
    blob(manifest.config.digest),
  );
  const blobs = join(target, 'blobs', 'sha256');
  await mkdir(blobs, { recursive: true });
  await cp(join(layout, 'oci-layout'), join(target, 'oci-layout'));
  const putBytes = async (old: Partial<Descriptor>, bytes: Uint8Array): Promise<Descriptor> => {
    const hex = createHash('sha256').update(bytes).digest('hex');
    await writeFile(join(blobs, hex), bytes);
    return { ...old, digest: `sha256:${hex}`, size: bytes.byteLength };
  };
  const put = (old: Descriptor, value: unknown): Promise<Descriptor> =>
    putBytes(old, Buffer.from(JSON.stringify(value)));
  const layers = manifest.layers.slice(0, count);
  for (const { digest } of layers) await symlink(blob(digest), join(blobs, digest.slice(7)));
  const diffIds = config.rootfs.diff_ids.slice(0, count);
  if (more !== undefined) {
    const layer = await putBytes({ mediaType: 'application/vnd.oci.image.layer.v1.tar' }, more);
    layers.push(layer);
    diffIds.push(layer.digest);
  }
  delete config.history;
  const newConfig = await put(manifest.config, {
    ...config,
    rootfs: { ...config.rootfs, diff_ids: diffIds },
  });
  const newManifest = await put(index.manifests[0], { ...manifest, config: newConfig, layers });
  await writeFile(join(target, 'index.json'), JSON.stringify({ ...index, manifests: [newManifest] }));
}
