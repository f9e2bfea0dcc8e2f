import { DeviceMeter } from '../blockdev/index.js';

/** A device's numbers, as somebody looked. */
export interface MeteredDevice {
  readonly id: string;
  readonly transport: string;
  readonly meter: DeviceMeter;
}

/**
 * The meters of all devices, those that are gone included, so that sums never fall. A device is known from the first
 * {@link look} on that finds it; one that comes and goes between two looks is missed.
 */
export class DeviceTotals {
  readonly #find: () => readonly MeteredDevice[];
  readonly #gone = new DeviceMeter();
  #known = new Map<DeviceMeter, MeteredDevice>();

  /** @param find the devices that are there now. */
  constructor(find: () => readonly MeteredDevice[]) {
    this.#find = find;
  }

  /** The devices that are there now. */
  look(): readonly MeteredDevice[] {
    const now = new Map(this.#find().map((device) => [device.meter, device]));
    for (const meter of this.#known.keys()) if (!now.has(meter)) this.#gone.addFrom(meter);
    this.#known = now;
    return [...now.values()];
  }

  /** All of them, and those that are gone; not what is in flight. */
  sum(): DeviceMeter {
    const here = this.look();
    const sum = new DeviceMeter();
    sum.addFrom(this.#gone);
    for (const { meter } of here) sum.addFrom(meter);
    return sum;
  }
}
