/** Files into ZFiles and back. */
import { FileBlob, FormatError, abortedError, type ReadableBlob } from '../blob/index.js';
import { tarPayload } from '../tar/index.js';
import { parseZFileEnd, ZFILE_END_SIZE, ZFileReader, type ZFileWriterOptions } from '../zfile/index.js';
import { writeOutput, type OutputOptions } from './output-file.js';
import { pack, type PackedSize } from './packing.js';

/** How a file is compressed. */
export interface CompressOptions extends OutputOptions {
  readonly zfile?: ZFileWriterOptions;
  readonly tar?: boolean;
  readonly signal?: AbortSignal;
}

/** Bytes read at once. */
const STEP = 1 << 20;

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw abortedError('ZFile', signal);
}

/** Compresses a stream into a new ZFile. @throws IoError */
export async function compressToFile(
  plain: AsyncIterable<Uint8Array>,
  path: string,
  options: CompressOptions = {},
): Promise<PackedSize> {
  const packing = { zfile: options.zfile ?? {}, tar: options.tar === true, initialHeader: true };
  return writeOutput(path, options, (output) =>
    pack(output, packing, async (sink) => {
      try {
        for await (const bytes of plain) {
          checkSignal(options.signal);
          await sink.write(bytes);
        }
      } catch (error) {
        checkSignal(options.signal); // A stream that was ended by it says so in its own words.
        throw error;
      }
    }),
  );
}

/** A file's bytes, in order. */
export async function* fileBytes(path: string): AsyncGenerator<Uint8Array> {
  const blob = await FileBlob.open(path);
  try {
    yield* blobBytes(blob);
  } finally {
    await blob.close();
  }
}

async function* blobBytes(blob: ReadableBlob): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(Math.min(STEP, blob.size));
  for (let at = 0; at < blob.size; at += STEP) {
    const bytes = buffer.subarray(0, Math.min(STEP, blob.size - at));
    await blob.read(at, bytes);
    yield bytes;
  }
}

/** Opens the ZFile in a file, wrapped in a tar or not. @throws FormatError, IoError */
async function openZFile(path: string): Promise<ZFileReader> {
  const blob = await FileBlob.open(path);
  try {
    return await ZFileReader.open(await tarPayload(blob));
  } catch (error) {
    await blob.close();
    throw error;
  }
}

/** Unpacks a ZFile, wrapped in a tar or not, into a new file. Gives its size. @throws FormatError, IoError */
export async function extractToFile(
  source: string,
  path: string,
  options: OutputOptions & { readonly signal?: AbortSignal } = {},
): Promise<number> {
  const zfile = await openZFile(source);
  try {
    await writeOutput(path, options, async (output) => {
      for await (const bytes of blobBytes(zfile)) {
        checkSignal(options.signal);
        await output.write(bytes);
      }
    });
    return zfile.size;
  } finally {
    await zfile.close();
  }
}

/**
 * Checks every block of a ZFile, its tables and its trailer. Gives the number of blocks.
 * @throws FormatError that names the first fault
 */
export async function verifyZFile(
  path: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<number> {
  const stored = await FileBlob.open(path);
  try {
    const payload = await tarPayload(stored);
    const zfile = await ZFileReader.open(payload);
    const trailer = new Uint8Array(ZFILE_END_SIZE);
    const offset = payload.size - ZFILE_END_SIZE;
    await payload.read(offset, trailer);
    parseZFileEnd(trailer, 'trailer', payload.name, offset, !zfile.end.legacy);
    let size = 0;
    for await (const bytes of blobBytes(zfile)) {
      checkSignal(options.signal);
      size += bytes.byteLength;
    }
    if (size !== zfile.end.plainSize)
      throw new FormatError(
        'OBD_FORMAT_TRUNCATED',
        `ZFile "${path}" has ${size} bytes, its header says ${zfile.end.plainSize}`,
      );
    return zfile.end.blocks;
  } finally {
    await stored.close();
  }
}
