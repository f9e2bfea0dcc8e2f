/** What layers and disks are packed in when they become files: a ZFile, a tar wrapper, both, or nothing. */
import type { ByteSink } from '../blob/index.js';
import { tarWrapperHead, TAR_WRAPPER_HEAD, tarWrapperTail } from '../tar/index.js';
import { ZFileFile, type ZFileWriterOptions } from '../zfile/index.js';
import type { OutputFile } from './output-file.js';

/** How to pack. */
export interface Packing {
  /** Absent: not compressed. */
  readonly zfile?: ZFileWriterOptions;
  /** Put it into a tar as `overlaybd.commit`, as registries carry layers. */
  readonly tar?: boolean;
  /**
   * Leave the ZFile's header as it is while blocks are still coming, so that only the trailer counts. It is what the
   * reference's merge and compression tools write; readers need one request more. Default false.
   */
  readonly initialHeader?: boolean;
}

/** What came out. */
export interface PackedSize {
  /** Before packing. */
  readonly plainSize: number;
  /** Of the file. */
  readonly size: number;
}

/** Packs what `fill` writes into `output`, which the caller then finishes. */
export async function pack(
  output: OutputFile,
  packing: Packing,
  fill: (sink: ByteSink) => Promise<unknown>,
): Promise<PackedSize> {
  const start = packing.tar === true ? TAR_WRAPPER_HEAD : 0;
  output.position = start;
  let plainSize: number;
  if (packing.zfile === undefined) {
    await fill(output);
    plainSize = output.position - start;
  } else {
    const { initialHeader = false } = packing;
    const zfile = new ZFileFile(output, start, { ...packing.zfile, initialHeader });
    try {
      await fill(zfile);
      plainSize = zfile.stream.position;
      output.position = start + (await zfile.finish());
    } finally {
      zfile.close();
    }
  }
  if (packing.tar === true) {
    const stored = output.position - start;
    await output.write(tarWrapperTail(stored));
    await output.writeAt(0, tarWrapperHead(stored));
  }
  return { plainSize, size: output.position };
}
