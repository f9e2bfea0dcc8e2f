/**
 * Which hosts may be spoken to without TLS, and which with a certificate that nobody checked. Nothing is insecure
 * unless it was named so: not even localhost.
 */

/** A set of hosts. An entry `host` covers every port of it, `host:port` that port alone. */
export class HostSet {
  readonly #entries = new Set<string>();

  constructor(entries: Iterable<string> = []) {
    for (const entry of entries) this.add(entry);
  }

  /** Entries may be written with a scheme, which is ignored. */
  add(entry: string): void {
    const bare = entry
      .trim()
      .toLowerCase()
      .replace(/^https?:\/\//, '')
      .replace(/\/.*$/, '');
    if (bare !== '') this.#entries.add(bare);
  }

  /** @param host host[:port] as `URL.host` gives it. */
  has(host: string): boolean {
    const lower = host.toLowerCase();
    return this.#entries.has(lower) || this.#entries.has(lower.replace(/:\d+$/, ''));
  }

  get size(): number {
    return this.#entries.size;
  }
}
