import { IoError, extentsOf, type Extent, type WritableBlob } from '../blob/index.js';
import { BlockDevice } from './block-device.js';
import type { IoPolicy } from './io-policy.js';

/**
 * A device whose users are there before its image is: one that the kernel kept, and whose image does not open. Its commands
 * fail for a reason that may pass, so that the policy decides about them, until {@link LateDevice.arrive}.
 */
export class LateDevice extends BlockDevice {
  readonly #blob: LateBlob;

  /**
   * @param disk what its users know of it.
   * @param coming commands wait for this before they fail: the first try to open the image. May reject.
   */
  constructor(
    name: string,
    disk: { readonly size: number; readonly readOnly: boolean },
    policy: IoPolicy,
    reason: unknown,
    coming?: Promise<unknown>,
  ) {
    const blob = new LateBlob(name, disk.size, reason, coming);
    super(blob, { readOnly: disk.readOnly, policy });
    this.#blob = blob;
  }

  override get waiting(): boolean {
    return this.#blob.image === undefined;
  }

  /** Why the image is not there, as commands are told. */
  get reason(): Error {
    return this.#blob.failure();
  }

  set reason(reason: unknown) {
    this.#blob.reason = reason;
  }

  /** The image's device, once it is there. */
  get image(): BlockDevice | undefined {
    return this.#blob.image;
  }

  /** From now on commands go to the image's device, which stays the caller's. */
  arrive(image: BlockDevice): void {
    this.#blob.image = image;
  }
}

/** The device of the open image behind a device; itself, unless its users came before the image. */
export function imageOf(device: BlockDevice): BlockDevice {
  return device instanceof LateDevice ? (device.image ?? device) : device;
}

class LateBlob implements WritableBlob {
  readonly name: string;
  readonly size: number;
  reason: unknown;
  image: BlockDevice | undefined;
  readonly #coming: Promise<unknown> | undefined;

  constructor(name: string, size: number, reason: unknown, coming: Promise<unknown> | undefined) {
    this.name = name;
    this.size = size;
    this.reason = reason;
    this.#coming = coming?.catch(() => undefined);
  }

  failure(): IoError {
    const { reason } = this;
    const why = reason instanceof Error ? reason.message : String(reason);
    return new IoError('OBD_IO_FAILED', `The image does not open yet: ${why}`, {
      source: this.name,
      cause: reason,
    });
  }

  async read(...args: Parameters<WritableBlob['read']>): Promise<void> {
    await (await this.#there()).read(...args);
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    await (await this.#there()).write(offset, from);
  }

  async discard(offset: number, length: number): Promise<void> {
    await (await this.#there()).discard(offset, length);
  }

  async flush(): Promise<void> {
    await (await this.#there()).flush();
  }

  async close(): Promise<void> {
    // The image is closed by whoever opened it.
  }

  extents(offset: number, length: number): Iterable<Extent> {
    return this.image?.extents(offset, length) ?? extentsOf({}, offset, length);
  }

  async #there(): Promise<BlockDevice> {
    if (this.image === undefined) await this.#coming;
    if (this.image === undefined) throw this.failure();
    return this.image;
  }
}
