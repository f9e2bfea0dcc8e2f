import { RegistryError, type ReadOptions } from '../blob/index.js';
import { verifyBytes } from './digest.js';
import type { ImageSource } from './image-store.js';
import { MAX_CONFIG_SIZE, type Descriptor } from './manifest.js';

/**
 * {@link ImageSource.readBlob} of a source that opens blobs: all of a small one, verified.
 * @throws RegistryError OBD_REGISTRY_RESPONSE if it is larger than `maxSize` (default {@link MAX_CONFIG_SIZE}),
 * OBD_REGISTRY_DIGEST if it is not what the descriptor says; what the source throws.
 */
export async function readSmallBlob(
  source: Pick<ImageSource, 'name' | 'openBlob'>,
  descriptor: Descriptor,
  options: ReadOptions & { readonly maxSize?: number } = {},
): Promise<Uint8Array> {
  const maxSize = options.maxSize ?? MAX_CONFIG_SIZE;
  if (descriptor.size > maxSize)
    throw new RegistryError(
      'OBD_REGISTRY_RESPONSE',
      `Cannot read blob "${descriptor.digest}": ${descriptor.size} bytes, at most ${maxSize} expected`,
      { source: source.name },
    );
  const bytes = new Uint8Array(descriptor.size);
  const blob = await source.openBlob(descriptor, options);
  try {
    await blob.read(0, bytes, options);
  } finally {
    await blob.close();
  }
  verifyBytes(bytes, descriptor, source.name);
  return bytes;
}
