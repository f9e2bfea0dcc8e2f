/** Loads through a TCMU ring whose other side is a thread of this process: everything of a device but the kernel. */
import { DeviceError, extentsOf, IoError, localFileOf, SECTOR } from '../blob/index.js';
import { BlockDevice, IoWorkers } from '../blockdev/index.js';
import { plannerModule, type OpenedImage } from '../image/index.js';
import type { Logger } from '../log/index.js';
import { dropCache, FakeRing, type FakeRingResult } from '../native/index.js';
import { inOrder, placesOf, windowOf, type Load, type Measured } from './load.js';

const RING_SIZE = 8 << 20;
const BLOCK = 4096;
const LEAST_DATA_BLOCKS = 16384;

/** Serves images with workers of its own; one load at a time. */
export class RingBench {
  readonly #workers: IoWorkers;
  readonly #logger: Logger;

  /** @param workers threads; one serves a device, so more than one changes nothing here. */
  constructor(logger: Logger, workers = 1) {
    this.#logger = logger;
    this.#workers = new IoWorkers({ logger, count: workers, plannerModule });
  }

  /**
   * One load on an image, on a device of its own.
   * @throws IoError if a command fails; DeviceError OBD_DEVICE_KERNEL if one is not answered within ten seconds.
   */
  async run(image: OpenedImage, load: Load): Promise<Measured & { readonly localShare: number }> {
    const { blob, planner } = image;
    const device = new BlockDevice(blob, { readOnly: load.writes === 0, planner });
    const places = placesOf(blob, device.size, load);
    const ring = newRing(device.size, load);
    const served = await this.#workers.serve(ring.handle, device, this.#logger);
    try {
      const measured = await ringLoad(ring, places, load);
      const { reads, localReads } = served.counters;
      return { ...measured, localShare: reads > 0 ? localReads / reads : 1 };
    } finally {
      await served.remove();
      ring.close();
    }
  }

  async close(): Promise<void> {
    await this.#workers.close();
  }
}

/** A ring with room for the load. */
export function newRing(deviceSize: number, load: Load): FakeRing {
  return new FakeRing({
    ringSize: RING_SIZE,
    dataBlocks: Math.max(LEAST_DATA_BLOCKS, load.depth * Math.ceil(load.length / BLOCK)),
    deviceSize,
    readOnly: load.writes === 0,
    verifyFd: -1,
  });
}

/** Warms up and measures a ring that somebody serves. The processor time is that of the rest of the process. */
export async function ringLoad(ring: FakeRing, places: Float64Array, load: Load): Promise<Measured> {
  const { length, depth, writes, cold, seed } = load;
  const shape = {
    length,
    depth,
    writes,
    targets: places,
    sequential: inOrder(load),
    window: windowOf(load),
    scatter: false,
  };
  if (load.warmUp > 0 && !cold)
    check(await ring.run({ ...shape, operations: 0, seconds: load.warmUp, seed: seed + 1 }));
  const cpu = process.cpuUsage();
  const operations = cold ? places.length : 0;
  const result = check(await ring.run({ ...shape, operations, seconds: load.seconds, seed }));
  const { user, system } = process.cpuUsage(cpu);
  return { ...result, cpu: Math.max(0, (user + system) / 1e6 - result.cpuSeconds) / result.seconds };
}

function check(result: FakeRingResult): FakeRingResult {
  const { failed, violations, error, operations } = result;
  if (failed > 0 || violations > 0)
    throw new IoError(
      'OBD_IO_FAILED',
      `Cannot measure: ${failed} of ${operations} commands failed, ${violations} answers were to no command`,
    );
  if (error !== 0)
    throw new DeviceError('OBD_DEVICE_KERNEL', `Cannot measure: the load ended with errno ${-error}`);
  return result;
}

/**
 * Brings all data of an image into memory, by reading it once; stops after `most` bytes.
 * @throws whatever the image throws.
 */
export async function warmImage({ blob }: OpenedImage, most = 4 * 2 ** 30): Promise<void> {
  const length = 1 << 20;
  const size = blob.size - (blob.size % SECTOR);
  const into = Buffer.allocUnsafe(length);
  let done = 0;
  for (const extent of extentsOf(blob, 0, size)) {
    if (!extent.data) continue;
    for (let at = 0; at < extent.length && done < most; at += length) {
      const piece = into.subarray(0, Math.min(length, extent.length - at));
      await blob.read(extent.offset + at, piece);
      done += piece.byteLength;
    }
  }
}

/** Takes the files of an image out of the page cache. @throws a system error. */
export function coolImage({ lowers }: OpenedImage): void {
  for (const { stored } of lowers) {
    const file = localFileOf(stored);
    if (file !== undefined) dropCache(file.fd);
  }
}
