/**
 * A peer-to-peer proxy (service specification C.6): reads of blob data go to `<address>/<real url>`. A proxy that does
 * not answer is left out for a while and then tried again, request by request; the registry itself stands behind it.
 */
import { ConfigError } from '../blob/index.js';

/** How long a proxy that failed is left out. */
const RETEST_MS = 15_000;

/** State of one proxy. */
export class P2pProxy {
  readonly #address: string;
  readonly #retestMs: number;
  #downUntil = 0;

  /** @param address `http://host:port/prefix`. @throws ConfigError */
  constructor(address: string, retestMs: number = RETEST_MS) {
    if (!URL.canParse(address) || !/^https?:$/.test(new URL(address).protocol))
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot use p2pConfig.address "${address}": expected an http URL`,
        {
          source: address,
          hint: 'For example http://localhost:9731/accelerator',
        },
      );
    this.#address = address.replace(/\/+$/, '');
    this.#retestMs = retestMs;
  }

  /** The proxied form of a URL, or undefined while the proxy is left out. */
  wrap(url: string): string | undefined {
    return performance.now() < this.#downUntil ? undefined : `${this.#address}/${url}`;
  }

  /** A request through the proxy failed in a way that is the proxy's. */
  failed(): void {
    this.#downUntil = performance.now() + this.#retestMs;
  }
}
