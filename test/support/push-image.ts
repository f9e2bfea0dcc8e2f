/** Copies images into registries, as `skopeo copy` does. */
import { openImageSource, openImageTarget, resolveManifest, type Manifest } from '../../src/oci/index.js';
import { RegistryClient } from '../../src/registryblob/index.js';

/** Copies one image of an OCI layout to `host/repository:tag`, plain HTTP. @returns its manifest. */
export async function pushImage(layout: string, reference: string): Promise<Manifest> {
  const host = reference.split('/')[0] ?? '';
  const client = new RegistryClient({ plainHttpHosts: [host] });
  try {
    const source = openImageSource(`oci:${layout}`, client);
    const target = openImageTarget(`docker://${reference}`, client);
    const { manifest, bytes, descriptor } = await resolveManifest(source);
    for (const part of [...manifest.layers, manifest.config]) {
      const blob = await source.openBlob(part);
      await target.pushBlob(part, blob);
      await blob.close();
    }
    await target.tag(await target.pushManifest(bytes, descriptor.mediaType));
    return manifest;
  } finally {
    await client.close();
  }
}
