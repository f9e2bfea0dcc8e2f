import {
  DeviceError,
  SECTOR,
  extentsOf,
  isWritable,
  type Extent,
  type ReadOptions,
  type ReadableBlob,
  type WritableBlob,
} from '../blob/index.js';
import { DEFAULT_POLICY, type IoPolicy } from './io-policy.js';
import { ReadRecord } from './read-record.js';

/** Plain data from which every I/O worker builds a `ReadPlanner` for this image; posted with structured clone. */
export type PlannerDescription = unknown;

/** What a {@link BlockDevice} may be told beside its bytes. */
export interface BlockDeviceOptions {
  /** Serve reads only, even if the blob can be written. Default: whether the blob is writable. */
  readonly readOnly?: boolean;
  /** Lets I/O workers read local bytes without asking the main thread; given to the planner module's createPlanner. */
  readonly planner?: PlannerDescription;
  /** What happens to commands that fail for a reason that may pass. Default {@link DEFAULT_POLICY}. */
  readonly policy?: IoPolicy;
}

/**
 * A blob with the geometry of a disk: whole sectors, a size that never changes, perhaps read-only. The only place where
 * a range outside the device is an ordinary event; below, it is a bug.
 */
export class BlockDevice {
  /** The blob's name. */
  readonly name: string;
  /** Bytes, a multiple of {@link SECTOR}; a partial last sector of the blob is not shown. */
  readonly size: number;
  readonly readOnly: boolean;
  readonly policy: IoPolicy;
  /** What users read; written by whoever serves the device. */
  readonly reads: ReadRecord;
  #planner: PlannerDescription;
  readonly #followers = new Set<(planner: PlannerDescription) => Promise<void>>();
  readonly #blob: ReadableBlob;
  readonly #writable: WritableBlob | undefined;

  /** @param blob owned by the device from now on. */
  constructor(blob: ReadableBlob, options: BlockDeviceOptions = {}) {
    this.#blob = blob;
    this.#writable = options.readOnly !== true && isWritable(blob) ? blob : undefined;
    this.name = blob.name;
    this.size = blob.size - (blob.size % SECTOR);
    this.readOnly = this.#writable === undefined;
    this.#planner = options.planner;
    this.policy = options.policy ?? DEFAULT_POLICY;
    this.reads = ReadRecord.forSize(this.size);
  }

  /** What I/O workers read by. */
  get planner(): PlannerDescription {
    return this.#planner;
  }

  /** Has I/O workers read by another description; settles when no new read goes by the old one. */
  async replan(planner: PlannerDescription): Promise<void> {
    this.#planner = planner;
    await Promise.all([...this.#followers].map((follow) => follow(planner)));
  }

  /** Has `changed` told of every {@link replan} until what is given back is called. */
  onReplan(changed: (planner: PlannerDescription) => Promise<void>): () => void {
    this.#followers.add(changed);
    return () => this.#followers.delete(changed);
  }

  /** True while the image behind it is not open: then writes too fail for a reason that may pass. */
  get waiting(): boolean {
    return false;
  }

  /**
   * Fills `into` from `offset`; any alignment. Calls may overlap.
   * @throws DeviceError OBD_DEVICE_OUT_OF_RANGE; otherwise what the blob throws.
   */
  async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    this.#check('read', offset, into.byteLength);
    await this.#blob.read(offset, into, options);
  }

  /** Stores whole sectors. @throws DeviceError OBD_DEVICE_OUT_OF_RANGE, OBD_DEVICE_READ_ONLY. */
  async write(offset: number, from: Uint8Array): Promise<void> {
    const blob = this.#change('write');
    this.#check('write', offset, from.byteLength, SECTOR);
    await blob.write(offset, from);
  }

  /** Makes whole sectors read as zeroes. @throws DeviceError OBD_DEVICE_OUT_OF_RANGE, OBD_DEVICE_READ_ONLY. */
  async discard(offset: number, length: number): Promise<void> {
    const blob = this.#change('discard');
    this.#check('discard', offset, length, SECTOR);
    await blob.discard(offset, length);
  }

  /** Settles once what was written before is durable. At once on a read-only device. */
  async flush(): Promise<void> {
    await this.#writable?.flush();
  }

  /**
   * The runs of data and of zeroes that make up [offset, offset + length), without reading them.
   * @throws DeviceError OBD_DEVICE_OUT_OF_RANGE.
   */
  extents(offset: number, length: number): Iterable<Extent> {
    this.#check('map', offset, length);
    return extentsOf(this.#blob, offset, length);
  }

  /** Closes the blob after its reads in flight. Idempotent. */
  close(): Promise<void> {
    return this.#blob.close();
  }

  #change(action: string): WritableBlob {
    if (this.#writable === undefined)
      throw new DeviceError(
        'OBD_DEVICE_READ_ONLY',
        `Cannot ${action} "${this.name}": the device is read-only`,
        {
          source: this.name,
        },
      );
    return this.#writable;
  }

  #check(action: string, offset: number, length: number, unit = 1): void {
    if (
      !Number.isSafeInteger(offset) ||
      offset < 0 ||
      offset + length > this.size ||
      offset % unit !== 0 ||
      length % unit !== 0
    )
      throw new DeviceError(
        'OBD_DEVICE_OUT_OF_RANGE',
        `Cannot ${action} [${offset}, ${offset + length}) of "${this.name}": the device has ${this.size} bytes` +
          (unit === 1 ? '' : ` in sectors of ${unit}`),
        { source: this.name, offset },
      );
  }
}
