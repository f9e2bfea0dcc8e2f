import { readFile, stat } from 'node:fs/promises';
import { fileChunks } from '../blob/index.js';
import { writeLayer } from '../convert/index.js';
import { Codec, Ext4Image, StreamDigest } from '../native/index.js';
import { applyLayer, PLAIN_KEPT, unpackLayer } from '../ocilayer/index.js';
import { readTar } from '../tar/index.js';
import type { Row } from './report.js';

/** What a layer becomes. */
export interface ConversionOptions {
  readonly zstd: boolean;
  /** Bytes of a compression block. */
  readonly blockSize: number;
  /** Where work files go. */
  readonly workDir: string;
  readonly runs: number;
}

const VIRTUAL_SIZE = 64 * 2 ** 30;

/**
 * From a layer's tar (plain, gzip or zstd) to a committed blob, `runs` times: a row each.
 * @throws ConvertError, FormatError, IoError
 */
export async function conversionTimes(tar: string, options: ConversionOptions): Promise<Row[]> {
  const { size } = await stat(tar);
  const rows: Row[] = [];
  for (let i = 0; i < options.runs; i++)
    rows.push({ name: `run ${i + 1}`, ...(await convert(tar, size, options)) });
  return rows;
}

async function convert(
  tar: string,
  size: number,
  { zstd, blockSize, workDir }: ConversionOptions,
): Promise<Record<string, number>> {
  const started = performance.now();
  const cpu = process.cpuUsage();
  const image = await Ext4Image.format(workDir, VIRTUAL_SIZE);
  try {
    const hash = new StreamDigest('sha256');
    async function* hashed(): AsyncGenerator<Uint8Array> {
      for await (const chunk of unpackLayer(fileChunks(tar, PLAIN_KEPT), tar)) {
        await hash.update(chunk);
        yield chunk;
      }
      await hash.end();
    }
    let applied = 0;
    const codec = zstd ? Codec.ZSTD : Codec.LZ4;
    const { file, result } = await writeLayer(
      image,
      { workDir, uuid: null, parentUuid: null, zfile: { codec, blockSize } },
      async () => {
        const counts = await applyLayer(image, readTar(hashed(), tar));
        applied = performance.now();
        return counts;
      },
    );
    const layer = await file;
    const ended = performance.now();
    await layer.blob.close();
    const { user, system } = process.cpuUsage(cpu);
    return {
      entries: result.entries,
      applyS: (applied - started) / 1000,
      writeS: (ended - applied) / 1000,
      totalS: (ended - started) / 1000,
      mbPerSecond: size / 1e3 / (ended - started),
      cpuS: (user + system) / 1e6,
      blobMib: layer.size / 2 ** 20,
      peakMemoryMib: await peakMib(),
    };
  } finally {
    image.close();
  }
}

/** Most memory that this process ever had. */
async function peakMib(): Promise<number> {
  const status = await readFile('/proc/self/status', 'utf8');
  return Number(/VmHWM:\s*(\d+)/.exec(status)?.[1] ?? 0) / 1024;
}
