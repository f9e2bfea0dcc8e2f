import { FormatError, refetchableOf, SliceBlob, type ReadableBlob, type ReadOptions } from '../blob/index.js';
import { hasLayerMagic } from '../lsmt/index.js';
import { tarPayload } from '../tar/index.js';
import { isZFile, ZFileReader } from '../zfile/index.js';

/** Bytes that tell one format from the other. */
const MAGIC_BYTES = 24;

/** A layer's blob without its wrappings. */
export interface UnwrappedLayer {
  /** The LSMT file. Owns all below it. */
  readonly blob: ReadableBlob;
  /** Set if it is compressed; the same object as `blob`. */
  readonly zfile: ZFileReader | undefined;
  /** Offset of what the tar wraps; 0 if there is no tar. */
  readonly payloadOffset: number;
}

/** What says how a layer is wrapped is in here: three tar headers, and the magic after them. */
const HEAD_BYTES = 4096;

/**
 * Looks through what a layer is wrapped in: a tar, then a ZFile, each optional. Nothing else in this program decides
 * that. A local copy whose first bytes make no sense is fetched again, once: no checksum covers them, so what a faulty
 * proxy sent would otherwise stay. The result owns `blob`; on failure the caller still does.
 * @throws FormatError
 */
export async function unwrapLayer(blob: ReadableBlob, options?: ReadOptions): Promise<UnwrappedLayer> {
  try {
    return await unwrapOnce(blob, options);
  } catch (error) {
    const source = refetchableOf(blob);
    if (source === undefined || !(error instanceof FormatError) || blob.size === 0) throw error;
    await source.refetch(0, Math.min(HEAD_BYTES, blob.size), options);
    return unwrapOnce(blob, options);
  }
}

async function unwrapOnce(blob: ReadableBlob, options?: ReadOptions): Promise<UnwrappedLayer> {
  const payload = await tarPayload(blob);
  const payloadOffset = payload instanceof SliceBlob && payload !== blob ? payload.start : 0;
  const start = new Uint8Array(Math.min(MAGIC_BYTES, payload.size));
  if (start.byteLength < MAGIC_BYTES)
    throw new FormatError(
      'OBD_FORMAT_TRUNCATED',
      `Cannot open layer "${blob.name}": file too short, it has ${payload.size} bytes`,
      { source: blob.name, actual: payload.size },
    );
  await payload.read(0, start, options);
  if (isZFile(start)) {
    const zfile = await ZFileReader.open(payload, options);
    return { blob: zfile, zfile, payloadOffset };
  }
  if (!hasLayerMagic(start))
    throw new FormatError(
      'OBD_FORMAT_BAD_MAGIC',
      `Cannot open layer "${blob.name}": neither ZFile nor LSMT, it begins with ${Buffer.from(start.subarray(0, 8)).toString('hex')}`,
      {
        source: blob.name,
        offset: payloadOffset,
        actual: Buffer.from(start).toString('hex'),
        hint: isXz(start)
          ? 'It is packed with xz: unpack it first (xz -d)'
          : 'Is this a layer of an overlaybd image, and complete?',
      },
    );
  return { blob: payload, zfile: undefined, payloadOffset };
}

function isXz(start: Uint8Array): boolean {
  return Buffer.from(start.buffer, start.byteOffset, 6).toString('hex') === 'fd377a585a00';
}
