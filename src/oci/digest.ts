/** Checks content against its name, as a whole or while it flows. */
import { createHash, type Hash } from 'node:crypto';
import { Readable } from 'node:stream';
import { abortedError, RegistryError, type ReadOptions } from '../blob/index.js';
import { StreamDigest } from '../native/index.js';
import type { Descriptor } from './manifest.js';

/** sha256 digest of bytes, as registries write it. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

function hasher(digest: string): Hash {
  return createHash(digest.startsWith('sha512:') ? 'sha512' : 'sha256');
}

function mismatch(
  descriptor: Pick<Descriptor, 'digest' | 'size'>,
  source: string,
  what: string,
): RegistryError {
  return new RegistryError(
    'OBD_REGISTRY_DIGEST',
    `Cannot use "${descriptor.digest}" from "${source}": ${what}`,
    {
      source,
      expected: descriptor.digest,
      hint: 'The content was damaged on its way or where it is kept',
    },
  );
}

/** Checks a whole document. @throws RegistryError OBD_REGISTRY_DIGEST */
export function verifyBytes(
  bytes: Uint8Array,
  descriptor: Pick<Descriptor, 'digest' | 'size'>,
  source: string,
): void {
  if (bytes.byteLength !== descriptor.size)
    throw mismatch(descriptor, source, `it has ${bytes.byteLength} bytes, expected ${descriptor.size}`);
  const actual = hasher(descriptor.digest).update(bytes).digest('hex');
  if (!descriptor.digest.endsWith(`:${actual}`))
    throw mismatch(descriptor, source, `its digest is ${actual}`);
}

/**
 * Passes chunks on and checks size and digest at the end: the stream errors instead of ending if they are wrong.
 * Nothing is started before the first read; destroying the stream aborts the signal that `open` got.
 */
export function verifiedStream(
  descriptor: Pick<Descriptor, 'digest' | 'size'>,
  source: string,
  open: (signal: AbortSignal) => AsyncIterable<Uint8Array>,
  options: ReadOptions = {},
): Readable {
  const controller = new AbortController();
  const { signal } = options;
  async function* checked(): AsyncGenerator<Uint8Array, void, undefined> {
    const hash = new StreamDigest(descriptor.digest.startsWith('sha512:') ? 'sha512' : 'sha256');
    let size = 0;
    for await (const chunk of open(controller.signal)) {
      size += chunk.byteLength;
      if (size > descriptor.size)
        throw mismatch(descriptor, source, `it has more than ${descriptor.size} bytes`);
      await hash.update(chunk);
      yield chunk;
    }
    if (size !== descriptor.size)
      throw mismatch(descriptor, source, `it has ${size} bytes, expected ${descriptor.size}`);
    const actual = await hash.end();
    if (!descriptor.digest.endsWith(`:${actual}`))
      throw mismatch(descriptor, source, `its digest is ${actual}`);
  }
  const stream = Readable.from(checked(), { objectMode: false, highWaterMark: 256 * 1024 });
  const stop = (): void => {
    stream.destroy(abortedError(`read "${descriptor.digest}"`, signal));
  };
  if (signal?.aborted === true) stop();
  signal?.addEventListener('abort', stop, { once: true });
  stream.once('close', () => {
    signal?.removeEventListener('abort', stop);
    controller.abort();
  });
  return stream;
}
