/** The layer that carries a trace (formats.md 5.3): a plain tar with one file, `trace`. */
import { FormatError, MemoryBlob, type ReadableBlob } from '../blob/index.js';
import { tarEnd, tarMemberHead, tarPadding, tarPayload } from '../tar/index.js';
import { MAX_TRACE_BYTES } from './trace-file.js';

/** Name of the file, in the layer and in the directory into which it is unpacked. */
export const TRACE_NAME = 'trace';
/** Largest blob of such a layer. */
export const MAX_TRACE_LAYER = MAX_TRACE_BYTES + (64 << 10);

/** The same trace makes the same bytes. */
export function packTraceLayer(trace: Uint8Array): Buffer {
  return Buffer.concat([
    tarMemberHead(TRACE_NAME, trace.byteLength, 0o444),
    trace,
    tarPadding(trace.byteLength),
    tarEnd(),
  ]);
}

/** @param source names the layer in errors. @throws FormatError if the blob is no such layer, or too large */
export async function unpackTraceLayer(bytes: Uint8Array, source: string): Promise<Uint8Array> {
  const blob = new MemoryBlob(bytes, source);
  const payload: ReadableBlob = await tarPayload(blob);
  if (payload === blob)
    throw new FormatError(
      'OBD_FORMAT_BAD_MAGIC',
      `Cannot read trace layer "${source}": not a tar, expected one with a file "${TRACE_NAME}"`,
      { source, offset: 257, expected: 'ustar' },
    );
  const trace = new Uint8Array(payload.size);
  await payload.read(0, trace);
  return trace;
}
