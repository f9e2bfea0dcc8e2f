import { DeviceMeter } from '../blockdev/index.js';

/** A device's numbers, as somebody looked. */
export interface MeteredDevice {
  readonly id: string;
  readonly transport: string;
  readonly meter: DeviceMeter;
}

/** The meters of all devices, those that are gone included, so that sums never fall. */
export class DeviceTotals {
  readonly #find: () => readonly MeteredDevice[];
  readonly #gone = new DeviceMeter();
  readonly #served = new Set<DeviceMeter>();

  /** @param find the devices that are there now. */
  constructor(find: () => readonly MeteredDevice[]) {
    this.#find = find;
  }

  /** Counts a device in from now on; what it has done when the returned function is called, for good. */
  readonly add = (meter: DeviceMeter): (() => void) => {
    this.#served.add(meter);
    return () => {
      if (this.#served.delete(meter)) this.#gone.addFrom(meter);
    };
  };

  /** The devices that are there now. */
  look(): readonly MeteredDevice[] {
    return this.#find();
  }

  /** All of them, and those that are gone; not what is in flight. */
  sum(): DeviceMeter {
    const sum = new DeviceMeter();
    sum.addFrom(this.#gone);
    for (const meter of this.#served) sum.addFrom(meter);
    return sum;
  }

  /** Nanoseconds of the longest read of any of them since the last call. One reader. */
  takeLongestRead(): number {
    let longest = 0;
    for (const meter of this.#served) longest = Math.max(longest, meter.takeLongestRead());
    return longest;
  }
}
